//! Curves as SVG: text and lines that take the colours of the page.

use std::fmt::Write as _;

use super::escape;
use crate::report::ticks::{self, Tick};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 292.0;
/// Left, top, right, bottom of the plot area.
const AREA: (f64, f64, f64, f64) = (66.0, 14.0, 470.0, 244.0);
/// More points than this are thinned: a page is no wider.
const MOST_POINTS: usize = 600;
/// Rows of the table below a curve.
const MOST_ROWS: usize = 24;

/// One curve.
pub(super) struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A plot.
pub(super) struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// Logarithmic where all numbers allow it.
    pub log: bool,
    /// Bars from 0 instead of a curve.
    pub bars: bool,
    /// A straight line at this height, with its name.
    pub level: Option<(f64, &'a str)>,
    /// Markup below.
    pub note: String,
}

impl Plot<'_> {
    /// The plot as a figure with its numbers as a table.
    pub fn html(&self, lines: &[Line]) -> String {
        let title = escape(self.title);
        format!(
            "<figure class=\"plot\">\n<figcaption>{title}</figcaption>\n{}{}<p class=\"note\">{}</p>\n\
             {}</figure>\n",
            self.svg(lines),
            legend(lines, self.level),
            self.note,
            self.table(lines)
        )
    }

    fn svg(&self, lines: &[Line]) -> String {
        let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
        let all: Vec<(f64, f64)> =
            lines.iter().flat_map(|l| &l.points).filter(finite).copied().collect();
        let log = self.log && !all.is_empty() && all.iter().all(|p| p.1 > 0.0);
        let level = self.level.map(|l| l.0);
        let zero = self.bars.then_some(0.0);
        let x = Axis::over(all.iter().map(|p| p.0), false);
        let y = Axis::over(all.iter().map(|p| p.1).chain(level).chain(zero), log);
        let mut svg = format!(
            "<svg class=\"curve\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.describe(lines, &all))
        );
        self.grid(&mut svg, &x, &y);
        if let Some(level) = level {
            let at = place_y(&y, level);
            let _ = write!(svg, "<path class=\"level\" d=\"M{} {at:.1}H{}\"/>", AREA.0, AREA.2);
        }
        for (index, line) in lines.iter().enumerate() {
            let points: Vec<(f64, f64)> = line.points.iter().filter(finite).copied().collect();
            match self.bars {
                true => bars(&mut svg, &points, &x, &y),
                false => curve(&mut svg, &points, index, &x, &y),
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// For those who do not see it.
    fn describe(&self, lines: &[Line], all: &[(f64, f64)]) -> String {
        if all.is_empty() {
            return format!("{}: no numbers", self.title);
        }
        let mut text = format!("{}: {} over {}.", self.title, self.y, self.x);
        for line in lines {
            let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else {
                continue;
            };
            let [a, b] = [first.1, last.1].map(ticks::short);
            let _ = write!(text, " {}: {a} at the start, {b} at the end.", line.name);
        }
        text
    }

    fn grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (left, top, right, bottom) = AREA;
        for tick in x.ticks(6) {
            let at = place_x(x, tick.value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 19.0,
                escape(&tick.label)
            );
        }
        for tick in y.ticks(5) {
            let at = place_y(y, tick.value);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                at + 4.0,
                escape(&tick.label)
            );
        }
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
             <text class=\"name\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            bottom + 40.0,
            escape(self.x)
        );
    }

    /// The numbers, thinned to a few rows.
    fn table(&self, lines: &[Line]) -> String {
        let Some(longest) = lines.iter().max_by_key(|l| l.points.len()) else {
            return String::new();
        };
        let rows = thinned(&longest.points, MOST_ROWS);
        let names: String =
            lines.iter().map(|l| format!("<th scope=\"col\">{}</th>", escape(&l.name))).collect();
        let mut table = format!(
            "<details><summary>Numbers: {}</summary><div class=\"scroll\" tabindex=\"0\" role=\"group\" \
             aria-label=\"Numbers of {}\"><table><thead><tr><th scope=\"col\">{}</th>{names}</tr>\
             </thead><tbody>",
            escape(self.title),
            escape(self.title),
            escape(self.x)
        );
        for (at, _) in rows {
            let _ = write!(table, "<tr><th scope=\"row\">{at}</th>");
            for line in lines {
                let value = line.points.iter().find(|p| p.0 == at).map(|p| ticks::short(p.1));
                let _ = write!(table, "<td>{}</td>", value.unwrap_or_else(|| "–".into()));
            }
            table.push_str("</tr>");
        }
        table.push_str("</tbody></table></div></details>\n");
        table
    }
}

fn legend(lines: &[Line], level: Option<(f64, &str)>) -> String {
    if lines.len() < 2 && level.is_none() {
        return String::new();
    }
    let key = |(index, line): (usize, &Line)| {
        format!("<li class=\"key{}\">{}</li>", index % 4, escape(&line.name))
    };
    let mut keys: String = lines.iter().enumerate().map(key).collect();
    if let Some((_, name)) = level {
        let _ = write!(keys, "<li class=\"keylevel\">{}</li>", escape(name));
    }
    format!("<ul class=\"keys\">{keys}</ul>\n")
}

fn curve(svg: &mut String, points: &[(f64, f64)], index: usize, x: &Axis, y: &Axis) {
    let points = thinned(points, MOST_POINTS);
    let Some(first) = points.first() else { return };
    let mut path = format!("M{:.1} {:.1}", place_x(x, first.0), place_y(y, first.1));
    for (px, py) in points.iter().skip(1) {
        let _ = write!(path, "L{:.1} {:.1}", place_x(x, *px), place_y(y, *py));
    }
    if points.len() == 1 {
        path.push_str("h0");
    }
    let _ = write!(svg, "<path class=\"line line{}\" d=\"{path}\"/>", index % 4);
}

fn bars(svg: &mut String, points: &[(f64, f64)], x: &Axis, y: &Axis) {
    let width = match points {
        [a, b, ..] => (place_x(x, b.0) - place_x(x, a.0)).abs(),
        _ => 20.0,
    };
    let base = place_y(y, 0.0);
    for &(px, py) in points.iter().filter(|p| p.1 > 0.0) {
        let (left, top) = (place_x(x, px) - 0.5 * width, place_y(y, py));
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            (width - 1.0).max(1.0),
            base - top
        );
    }
}

/// At most `most` of the points, evenly, the first and the last among them.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    (0..most).map(|i| points[i * (points.len() - 1) / (most - 1)]).collect()
}

struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Axis {
        let ends = |(low, high): (f64, f64), v: f64| (low.min(v), high.max(v));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        let (low, high) = if low <= high { (low, high) } else { (1.0, 2.0) };
        let half = if low < high { 0.0 } else { 0.5 * low.abs().max(1e-9) };
        Axis { low: low - half, high: high + half, log }
    }

    /// 0 to 1, with a margin on both sides.
    fn share(&self, value: f64) -> f64 {
        const MARGIN: f64 = 0.03;
        let f = |v: f64| if self.log { v.ln() } else { v };
        MARGIN + (1.0 - 2.0 * MARGIN) * (f(value) - f(self.low)) / (f(self.high) - f(self.low))
    }

    fn ticks(&self, count: usize) -> Vec<Tick> {
        match self.log {
            true => ticks::logarithmic(self.low, self.high, count),
            false => ticks::linear(self.low, self.high, count),
        }
    }
}

fn place_x(axis: &Axis, value: f64) -> f64 {
    AREA.0 + axis.share(value) * (AREA.2 - AREA.0)
}

fn place_y(axis: &Axis, value: f64) -> f64 {
    AREA.3 - axis.share(value) * (AREA.3 - AREA.1)
}
