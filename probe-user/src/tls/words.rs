//! What a failed handshake means for whoever has to mend it, where rustls says it in the protocol's own
//! names.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Each with what it means to the side that says it.
fn known() -> [(Error, &'static str); 9] {
    let alert = Error::AlertReceived;
    [
        (
            alert(AlertDescription::UnknownCA),
            "the other side does not believe this side's certificate, which is of another authority than \
             the one in its ca_file (--ca)",
        ),
        (
            // Two authorities of one name differ by their keys.
            alert(AlertDescription::DecryptError),
            "the other side does not believe this side's certificate, which another authority of the same \
             name has signed, not the one in its ca_file (--ca)",
        ),
        (
            alert(AlertDescription::CertificateExpired),
            "the other side does not believe this side's certificate, which is not in force by its clock",
        ),
        (
            alert(AlertDescription::BadCertificate),
            "the other side does not believe this side's certificate",
        ),
        (
            alert(AlertDescription::CertificateRequired),
            "the other side wants a certificate",
        ),
        (
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            "the other side's certificate is of another authority than the one in this side's ca_file \
             (--ca)",
        ),
        (
            Error::InvalidCertificate(CertificateError::BadSignature),
            "another authority of the same name has signed the other side's certificate, not the one in this \
             side's ca_file (--ca)",
        ),
        (
            Error::NoCertificatesPresented,
            "the other side shows no certificate",
        ),
        (
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            "the other side does not speak TLS",
        ),
    ]
}

/// An error as it was said, after what it means if that is known. It may be a piece of a longer
/// sentence: on its way through HTTP/2 only the words are left of an error.
pub(crate) fn in_words(said: String) -> String {
    let mut known = known().into_iter();
    match known.find(|(error, _)| said.contains(&error.to_string())) {
        Some((_, words)) => format!("{words}: {said}"),
        None => said,
    }
}

/// Whether a handshake failed because of the other side's certificate.
pub(crate) fn is_of_certificate(err: &io::Error) -> bool {
    let of_tls = err.get_ref().and_then(|err| err.downcast_ref::<Error>());
    matches!(
        of_tls,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_lacks_is_said_in_words_and_all_else_as_it_was() {
        for (said, words) in [
            (
                "connection error: received fatal alert: UnknownCA",
                "another authority",
            ),
            (
                "invalid peer certificate: UnknownIssuer",
                "this side's ca_file",
            ),
            ("peer sent no certificates", "shows no certificate"),
        ] {
            let told = in_words(said.to_owned());
            assert!(told.contains(words) && told.ends_with(said), "{told}");
        }
        let other = "Connection refused (os error 111)";
        assert_eq!(in_words(other.to_owned()), other);
    }
}
