//! Slowdown against local share, drawn: an SVG image, one panel a workload.

use std::fmt::Write;

use super::workload::{Figures, Share, Side};

/// Size of a panel's drawing area, and of what surrounds it: pixels.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Panels beside each other.
const COLUMNS: usize = 3;
/// Height of the image's title, and of a line of its legend, which has room for two names beneath a panel.
const TITLE: f64 = 30.0;
const LEGEND: f64 = 24.0;
/// The least slowdown that is drawn: a little faster than plain memory happens.
const FLOOR: f64 = 0.8;

/// One workload's lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    title: String,
    lines: Vec<Line>,
}

/// Slowdowns of one side.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    style: Style,
    /// Local share in percent, and time of an operation over that on plain memory; by share.
    points: Vec<(f64, f64)>,
}

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Style {
    name: &'static str,
    colour: &'static str,
    dashes: &'static str,
}

const STYLES: [Style; 4] = [
    style("gmem, zip", "#0072b2", ""),
    style("swap on zram", "#0072b2", "5 4"),
    style("gmem, hbm", "#d55e00", ""),
    style("swap in memory", "#d55e00", "5 4"),
];

const fn style(name: &'static str, colour: &'static str, dashes: &'static str) -> Style {
    Style {
        name,
        colour,
        dashes,
    }
}

impl Panel {
    /// Of workload `name`.
    pub fn of(name: &str, figures: &Figures) -> Self {
        let lines = STYLES.iter().enumerate().map(|(index, &style)| {
            let side = |share: &Share| -> Option<Side> {
                let tier = if index < 2 { "zip" } else { "hbm" };
                let side = [Some(share.ours), share.swap][index % 2];
                side.filter(|_| share.tier == tier)
            };
            let point = |share: &Share| {
                side(share).map(|side| (f64::from(share.percent), side.slowdown.median))
            };
            let mut points: Vec<_> = figures.shares.values().filter_map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { style, points }
        });
        Self {
            title: format!("{name}, {} MiB", figures.memory_bytes >> 20),
            lines: lines.filter(|line| !line.points.is_empty()).collect(),
        }
    }
}

/// The image of all `panels`.
pub fn svg(panels: &[Panel]) -> String {
    let [across, down] = [LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM];
    let columns = panels.len().clamp(1, COLUMNS);
    let width = across * columns as f64;
    let legend = TITLE + down * panels.len().div_ceil(columns) as f64;
    let named = styles_in(panels);
    let height = legend + LEGEND * named.len().div_ceil(2 * columns) as f64;
    let mut image = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    label(
        &mut image,
        (width / 2.0, 20.0),
        "middle",
        "Slowdown over plain memory by share of local memory",
    );
    let slowdowns = panels.iter().flat_map(|panel| &panel.lines);
    let slowdowns = slowdowns.flat_map(|line| line.points.iter().map(|point| point.1));
    let most = slowdowns.fold(10.0, f64::max) * 1.2;
    for (index, panel) in panels.iter().enumerate() {
        let x = LEFT + across * (index % columns) as f64;
        let y = TITLE + TOP + down * (index / columns) as f64;
        draw(&mut image, panel, (x, y), most);
    }
    for (index, style) in named.into_iter().enumerate() {
        let x = LEFT / 2.0 + across / 2.0 * (index % (2 * columns)) as f64;
        let y = legend + LEGEND * (index / (2 * columns)) as f64 + 12.0;
        line(&mut image, style, &[(x, y - 4.0), (x + 34.0, y - 4.0)]);
        label(&mut image, (x + 42.0, y), "start", style.name);
    }
    image + "</svg>\n"
}

/// Those of the lines that there are.
fn styles_in(panels: &[Panel]) -> Vec<Style> {
    let has = |style: &&Style| {
        let mut lines = panels.iter().flat_map(|panel| &panel.lines);
        lines.any(|line| line.style == **style)
    };
    STYLES.iter().filter(has).copied().collect()
}

/// Draws a panel whose drawing area begins at `x`, `y`, up to a slowdown of `most`.
fn draw(image: &mut String, panel: &Panel, (x, y): (f64, f64), most: f64) {
    let at = |(share, slowdown): (f64, f64)| {
        let up = (slowdown.max(FLOOR) / FLOOR).ln() / (most / FLOOR).ln();
        (x + WIDTH * share / 100.0, y + HEIGHT * (1.0 - up))
    };
    label(image, (x + WIDTH / 2.0, y - 10.0), "middle", &panel.title);
    for share in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let (at, bottom) = at((share, FLOOR));
        grid(image, [at, y, at, bottom], "#e4e4e4");
        label(image, (at, bottom + 16.0), "middle", &format!("{share}%"));
    }
    let decades = (0..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    for slowdown in decades.take_while(|slowdown| *slowdown <= most) {
        let (left, height) = at((0.0, slowdown));
        let colour = if slowdown == 1.0 { "#777" } else { "#e4e4e4" };
        grid(image, [left, height, left + WIDTH, height], colour);
        label(
            image,
            (left - 6.0, height + 4.0),
            "end",
            &format!("{slowdown}x"),
        );
    }
    label(
        image,
        (x + WIDTH / 2.0, y + HEIGHT + 34.0),
        "middle",
        "local memory",
    );
    for drawn in &panel.lines {
        let points: Vec<_> = drawn.points.iter().map(|&point| at(point)).collect();
        line(image, drawn.style, &points);
    }
}

/// Dots, joined in their order.
fn line(image: &mut String, style: Style, points: &[(f64, f64)]) {
    let Style { colour, dashes, .. } = style;
    let joined: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        image,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
        joined.join(" ")
    );
    // What is measured of the other side is hollow: a single dot has no dashes.
    let inside = if dashes.is_empty() { colour } else { "white" };
    for (x, y) in points {
        let _ = writeln!(
            image,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{inside}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
    }
}

fn grid(image: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    let _ = writeln!(
        image,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn label(image: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        image,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_that_was_measured_has_a_line_and_a_name() {
        let panel = |title: &str, lines: &[usize]| Panel {
            title: title.into(),
            lines: lines
                .iter()
                .map(|&index| Line {
                    style: STYLES[index],
                    points: vec![(25.0, 40.0), (50.0, 4.0)],
                })
                .collect(),
        };
        let image = svg(&[panel("scan, 16 MiB", &[0, 1]), panel("zipf, 16 MiB", &[0])]);
        assert!(image.starts_with("<svg ") && image.ends_with("</svg>\n"));
        for text in [
            "scan, 16 MiB",
            "zipf, 16 MiB",
            "gmem, zip",
            "swap on zram",
            "local memory",
            ">20x<",
        ] {
            assert!(image.contains(text), "{text}: {image}");
        }
        assert!(!image.contains("hbm"), "what was not measured is not named");
        // Three lines, and two in the legend.
        assert_eq!(image.matches("<polyline").count(), 5);
    }
}
