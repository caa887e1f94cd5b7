//! How sure a share is.

/// Standard deviations within which 95 % of a normal distribution lie.
pub const Z: f64 = 1.96;

/// A share with Wilson's interval (Wilson, "Probable inference", 1927), which is sound also for few
/// and for none: the likeliest, at least, at most. None: of nothing.
pub fn wilson(part: u64, whole: u64) -> Option<(f64, f64, f64)> {
    if whole == 0 {
        return None;
    }
    let n = whole as f64;
    let p = (part.min(whole)) as f64 / n;
    let scale = 1.0 / (1.0 + Z * Z / n);
    let centre = scale * (p + Z * Z / (2.0 * n));
    let half = scale * Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some((
        p,
        (centre - half).clamp(0.0, p),
        (centre + half).clamp(p, 1.0),
    ))
}
