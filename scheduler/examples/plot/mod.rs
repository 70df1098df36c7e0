//! Lines in a frame, as SVG that reads the same on light and dark pages.

use std::fmt::Write as _;

/// Lines over one axis.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Whether each step to the right is a multiple.
    pub(crate) is_log: bool,
    pub(crate) lines: Vec<Line>,
}

/// Points from left to right.
pub(crate) struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        let name = name.into();
        Self { name, points }
    }
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let across = |(x, _): &(f64, f64)| if self.is_log { x.log10() } else { *x };
        let left = all().map(across).fold(f64::MAX, f64::min);
        let right = all().map(across).fold(f64::MIN, f64::max);
        let top = all().map(|(_, y)| *y).fold(f64::MIN, f64::max);
        let step = nice(top / 5.0);
        let top = (top / step).ceil() * step;
        let at_x = |x: f64| 60.0 + (x - left) / (right - left).max(1e-9) * WIDTH;
        let at_y = |y: f64| 40.0 + HEIGHT - y / top * HEIGHT;

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 420\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"900\" height=\"420\" fill=\"#fff\"/>\n\
             <text x=\"60\" y=\"22\" font-size=\"15\">{}</text>\n\
             <text x=\"60\" y=\"36\" fill=\"#555\">{}</text>\n\
             <text x=\"{}\" y=\"412\" text-anchor=\"end\" fill=\"#555\">{}</text>\n",
            self.title,
            self.y,
            60.0 + WIDTH,
            self.x,
        );
        let mut put = |text: std::fmt::Arguments<'_>| {
            svg.write_fmt(text).unwrap_or_default();
        };
        let mut y = 0.0;
        while y <= top + step / 2.0 {
            let at = at_y(y);
            put(format_args!(
                "<path d=\"M60 {at:.1}h{WIDTH}\" stroke=\"#ddd\"/>\
                 <text x=\"54\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                at + 4.0,
                short(y),
            ));
            y += step;
        }
        let between = nice((right - left) / 8.0);
        let between = if self.is_log {
            between.max(1.0)
        } else {
            between
        };
        let mut x = (left / between).ceil() * between;
        while x <= right {
            let value = if self.is_log { 10_f64.powf(x) } else { x };
            put(format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                at_x(x),
                58.0 + HEIGHT,
                short(value),
            ));
            x += between;
        }
        for ((line, color), row) in self.lines.iter().zip(COLORS.iter().cycle()).zip(0..) {
            put(format_args!(
                "<path fill=\"none\" stroke-width=\"1.6\" stroke=\"{color}\" d=\""
            ));
            let mut pen = 'M';
            for point in &line.points {
                put(format_args!(
                    "{pen}{:.1} {:.1}",
                    at_x(across(point)),
                    at_y(point.1)
                ));
                pen = 'L';
            }
            let at = 56.0 + f64::from(row) * 18.0;
            put(format_args!(
                "\"/>\n<path d=\"M690 {:.1}h18\" stroke-width=\"3\" stroke=\"{color}\"/>\
                 <text x=\"714\" y=\"{at:.1}\">{}</text>\n",
                at - 4.0,
                line.name,
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// One, two or five times a power of ten, not below.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let fitting = steps.into_iter().find(|nice| *nice >= step * 0.999_999);
    fitting.unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.into()
}

const WIDTH: f64 = 610.0;
const HEIGHT: f64 = 330.0;

const COLORS: &[&str] = &[
    "#c33", "#e90", "#a6a600", "#080", "#09a", "#24c", "#808", "#555",
];
