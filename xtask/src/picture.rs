//! Draws what a terminal showed, so that the picture in the README can be made again.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// Reads a capture with its escape sequences and writes it as an SVG.
pub(crate) fn draw(capture: &Path, svg: &Path) -> Result<()> {
    let text = fs::read_to_string(capture)
        .with_context(|| format!("cannot read the capture {}", capture.display()))?;
    let drawn = anstyle_svg::Term::new().render_svg(text.trim_end_matches('\n'));
    fs::write(svg, drawn).with_context(|| format!("cannot write {}", svg.display()))
}
