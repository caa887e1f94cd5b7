use proptest::prelude::*;

use super::*;
use crate::labels::fuzz_cases;

fn one(list: &str) -> Declared<'_> {
    read([list.as_bytes()]).unwrap()
}

/// As hls.js 1.6 writes it.
const V1: &str = "bl=8200,br=3128,cid=\"vod/1\",d=2002,dl=8200,mtp=21500,nor=\"..%2Fseg7.m4s\",ot=v,\
                  rtp=9400,sf=h,sid=\"6e2fb550-c457-11e9-bb97-0800200c9a66\",st=v,tb=3128,su";
const V2: &str = "bl=(1200;v 900;a),br=(510;v),bs,bsa=(2),bsd=(300;v),bsda=(1900),ec=(\"3016\"),\
                  ltc=4200,msd=850,mtp=(20000),ot=v,pr=1.25,pt=63000,sf=d,sid=\"a\\\"b\",sn=17,\
                  st=ll,sta=p,tbl=(8000),ts=1764111111123,v=2,com.example-x=\"y,z\",bg";

#[test]
fn version_1_is_read() {
    let Declared { cmcd, sid, cid } = one(V1);
    assert_eq!(sid.unwrap(), b"6e2fb550-c457-11e9-bb97-0800200c9a66");
    assert_eq!(cid.unwrap(), b"vod/1");
    let want = Cmcd {
        version: 1,
        bl_ms: Some(8200),
        br_kbps: Some(3128),
        d_ms: Some(2002),
        dl_ms: Some(8200),
        mtp_kbps: Some(21_500),
        ot: Some(ObjectType::Video),
        rtp_kbps: Some(9400),
        sf: Some(Format::Hls),
        st: Some(StreamType::Vod),
        su: true,
        tb_kbps: Some(3128),
        ..Cmcd::default()
    };
    assert_eq!(cmcd, want);
}

#[test]
fn version_2_is_read_with_its_inner_lists() {
    let Declared { cmcd, sid, .. } = one(V2);
    assert_eq!(sid.unwrap(), b"a\\\"b");
    let want = Cmcd {
        version: 2,
        bg: true,
        bl_ms: Some(1200),
        bl_audio_ms: Some(900),
        bl_video_ms: Some(1200),
        br_kbps: Some(510),
        bs: true,
        bsa: Some(2),
        bsd_ms: Some(300),
        bsda_ms: Some(1900),
        ec: true,
        ltc_ms: Some(4200),
        msd_ms: Some(850),
        mtp_kbps: Some(20_000),
        ot: Some(ObjectType::Video),
        pr_x100: Some(125),
        pt_ms: Some(63_000),
        sf: Some(Format::Dash),
        sn: Some(17),
        st: Some(StreamType::LowLatency),
        sta: Some(PlayState::Playing),
        tbl_ms: Some(8000),
        ts_unix_ms: Some(1_764_111_111_123),
        ..Cmcd::default()
    };
    assert_eq!(cmcd, want);
}

#[test]
fn the_four_headers_are_one_declaration() {
    let headers = ["br=510,d=2000,ot=a", "bl=1500,su", "sid=\"x\",v=2", "bs"];
    let declared = read(headers.map(str::as_bytes)).unwrap();
    assert_eq!(declared.cmcd.bl_ms, Some(1500));
    assert_eq!(declared.cmcd.ot, Some(ObjectType::Audio));
    assert!(declared.cmcd.su && declared.cmcd.bs);
    assert_eq!(declared.sid, Some(&b"x"[..]));
}

#[test]
fn a_query_argument_is_read_once_its_escapes_are_gone() {
    let query = "bl%3D(1200%3Bv%20900%3Ba)%2Cot%3Da%2Csid%3D%22x%22%2Cv%3D2";
    let decoded = percent_decoded(query);
    let declared = read([&*decoded]).unwrap();
    assert_eq!(declared.cmcd.bl_ms, Some(900));
    assert_eq!(declared.sid, Some(&b"x"[..]));
    assert_eq!(&*percent_decoded("100%"), b"100%");
    assert_eq!(&*percent_decoded("%zz%4"), b"%zz%4");
}

#[test]
fn without_a_type_the_shortest_buffer_counts() {
    assert_eq!(one("bl=(1200;v 900;a)").cmcd.bl_ms, Some(900));
    assert_eq!(one("bl=(1200;v 900;a),ot=m").cmcd.bl_ms, Some(900));
    assert_eq!(one("bl=(1200)").cmcd.bl_ms, Some(1200));
}

#[test]
fn what_is_not_plausible_is_not_said() {
    let cmcd = one("d=0,bl=99999999999,br=-4,mtp=1e9,pr=999,ot=zz,bs=?0,su=false,tb=\"\"").cmcd;
    let want = Cmcd {
        version: 1,
        ..Cmcd::default()
    };
    assert_eq!(cmcd, want);
    assert_eq!(one("d=2002.6").cmcd.d_ms, Some(2002));
}

#[test]
fn what_is_no_cmcd_is_none() {
    for list in ["", "-", ",,,", "q=1", "=", "(((", "\"", ";;;=,"] {
        assert_eq!(read([list.as_bytes()]), None, "{list:?}");
    }
}

#[test]
fn a_comma_in_quotes_ends_nothing() {
    let declared = one("cid=\"a,bl=5,b\",bl=7");
    assert_eq!(declared.cid, Some(&b"a,bl=5,b"[..]));
    assert_eq!(declared.cmcd.bl_ms, Some(7));
}

#[test]
fn what_is_too_long_is_read_in_part() {
    let list = "bl=1,".to_owned() + &"x=1,".repeat(MOST_BYTES) + "d=5";
    let declared = one(&list);
    assert_eq!((declared.cmcd.bl_ms, declared.cmcd.d_ms), (Some(1), None));
}

/// All that holds for whatever a client sends.
fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let decoded = percent_decoded(&text);
    for list in [bytes, &*decoded] {
        let Some(Declared { cmcd, sid, cid }) = read([list]) else {
            continue;
        };
        assert!(cmcd.version >= 1);
        assert!(cmcd.d_ms.is_none_or(|ms| (1..=3_600_000).contains(&ms)));
        assert!(cmcd.bl_ms.is_none_or(|ms| ms <= 86_400_000));
        assert!(cmcd.pr_x100.is_none_or(|rate| rate <= 1600));
        assert!(cmcd.br_kbps.is_none_or(|kbps| kbps <= 100_000_000));
        for text in [sid, cid].into_iter().flatten() {
            assert!((1..=MOST_BYTES).contains(&text.len()));
        }
        // Read again, it says the same.
        assert_eq!(read([list]).unwrap().cmcd, cmcd);
    }
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<u16>(), any::<u8>(), 0..4_u8);
    let changes = proptest::collection::vec(change, 0..12);
    (any::<bool>(), changes).prop_map(|(second, changes)| {
        let mut bytes = if second { V2 } else { V1 }.as_bytes().to_vec();
        for (at, byte, how) in changes {
            let at = usize::from(at) % bytes.len().max(1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => {
                    bytes.remove(at);
                }
                2 => bytes.insert(at, b",;=()\"\\?%"[usize::from(byte) % 9]),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    #[test]
    fn any_bytes_are_read_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn bytes_of_the_grammar_are_read_within_bounds(
        bytes in "([a-z]{1,4}(=(\\(?[0-9a-z?\";. ]{0,8}\\)?))?,?){0,12}",
    ) {
        check(bytes.as_bytes());
    }

    #[test]
    fn valid_ones_that_were_changed_are_read_within_bounds(bytes in mutated()) {
        check(&bytes);
    }

    #[test]
    fn a_buffer_length_is_found_wherever_it_stands(
        before in "([a-z]{5}=[0-9]{1,3},){0,5}",
        bl in 0..86_400_000_u32,
        after in "(,[a-z]{5}=[0-9]{1,3}){0,5}",
    ) {
        let list = format!("{before}bl={bl}{after}");
        prop_assert_eq!(one(&list).cmcd.bl_ms, Some(bl));
    }
}
