//! Curves as SVG.

use std::fmt::Write;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
/// Space around a panel: left, top, right, bottom.
const MARGIN: [f64; 4] = [62.0, 40.0, 18.0, 46.0];
/// One curve, one colour: told apart without seeing red from green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000"];

/// One diagram.
pub struct Panel {
    pub title: String,
    /// What the x axis counts; the title says it of the other.
    pub x_label: &'static str,
    pub x: Scale,
    pub y: Scale,
    /// The same curves in every panel of a chart, as far as they have points there.
    pub curves: Vec<Curve>,
}

/// Points from left to right.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// A point to be seen among the others.
    pub marked: Option<(f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy)]
pub enum Scale {
    /// Powers of a base; values are positive.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "embedded")),
        allow(dead_code, reason = "of benchmarks")
    )]
    Powers(f64),
    /// Equal steps from 0.
    Steps(f64),
}

/// Panels side by side over one legend.
pub fn svg(panels: &[Panel]) -> String {
    let names: Vec<&str> = panels
        .first()
        .map(|panel| panel.curves.iter().map(|curve| curve.name.as_str()).collect())
        .unwrap_or_default();
    let legend = 18.0 * names.len() as f64 + 16.0;
    let (width, height) = (WIDTH * panels.len().max(1) as f64, HEIGHT + legend);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut svg, WIDTH * index as f64, panel);
    }
    for (index, name) in names.iter().enumerate() {
        let y = HEIGHT + 14.0 + 18.0 * index as f64;
        let colour = COLOURS[index % COLOURS.len()];
        let x = MARGIN[0];
        let _ = writeln!(
            svg,
            "<path d=\"M{x} {y}h24\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x + 32.0,
            y + 4.0,
            escape(name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, left: f64, panel: &Panel) {
    let all = || panel.curves.iter().flat_map(|curve| &curve.points);
    let x_axis = Axis::over(all().map(|point| point.0), panel.x);
    let y_axis = Axis::over(all().map(|point| point.1), panel.y);
    let [margin_left, top, right, bottom] = MARGIN;
    let (x0, x1) = (left + margin_left, left + WIDTH - right);
    let (y0, y1) = (HEIGHT - bottom, top);
    let place =
        |&(x, y): &(f64, f64)| (x0 + x_axis.place(x) * (x1 - x0), y0 + y_axis.place(y) * (y1 - y0));
    let title = escape(&panel.title);
    let _ = writeln!(svg, "<text x=\"{x0}\" y=\"22\" font-weight=\"bold\">{title}</text>");
    for tick in y_axis.ticks() {
        let at = y0 + y_axis.place(tick) * (y1 - y0);
        let _ = writeln!(
            svg,
            "<path d=\"M{x0} {at:.1}H{x1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x0 - 6.0,
            at + 4.0,
            figure(tick)
        );
    }
    for tick in x_axis.ticks() {
        let at = x0 + x_axis.place(tick) * (x1 - x0);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {y0}V{y1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y0 + 16.0,
            figure(tick)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(x0, x1),
        y0 + 34.0,
        panel.x_label
    );
    for (index, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let places: Vec<(f64, f64)> = curve.points.iter().map(place).collect();
        if places.is_empty() {
            continue;
        }
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        for (x, y) in places {
            let _ =
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        if let Some((x, y)) = curve.marked.as_ref().map(place) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\" fill=\"none\" stroke=\"{colour}\" \
                 stroke-width=\"2\"/>"
            );
        }
    }
}

/// A tick, without the noise of binary fractions.
fn figure(tick: f64) -> f64 {
    (tick * 1e6).round() / 1e6
}

/// An axis between two of its ticks.
struct Axis {
    scale: Scale,
    first: i32,
    last: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        let (low, high) = values
            .map(|value| scale.ticks_to(value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let first = match scale {
            Scale::Powers(_) => (low + 1e-9).floor() as i32,
            Scale::Steps(_) => 0,
        };
        Self { scale, first, last: ((high - 1e-9).ceil() as i32).max(first + 1) }
    }

    /// From 0 at the start to 1 at the end.
    fn place(&self, value: f64) -> f64 {
        (self.scale.ticks_to(value) - f64::from(self.first)) / f64::from(self.last - self.first)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let scale = self.scale;
        (self.first..=self.last).map(move |tick| match scale {
            Scale::Powers(base) => base.powi(tick),
            Scale::Steps(step) => step * f64::from(tick),
        })
    }
}

impl Scale {
    /// Ticks from 1, or from 0, to a value.
    fn ticks_to(self, value: f64) -> f64 {
        match self {
            Self::Powers(base) => value.log(base),
            Self::Steps(step) => value / step,
        }
    }
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_holds_every_point_and_its_curves_by_name() {
        let curve = |name: &str, points: &[(f64, f64)]| Curve {
            name: name.into(),
            points: points.to_vec(),
            marked: points.first().copied(),
        };
        let svg = svg(&[Panel {
            title: "ms · a <GPU>".into(),
            x_label: "tokens",
            x: Scale::Powers(2.0),
            y: Scale::Steps(0.1),
            curves: vec![curve("one", &[(512.0, 0.25), (1_024.0, 0.3)]), curve("none", &[])],
        }]);
        assert_eq!(svg.matches("r=\"3\"").count(), 2);
        assert_eq!(svg.matches("r=\"7\"").count(), 1);
        assert!(svg.contains(">one<") && svg.contains("a &lt;GPU&gt;"), "{svg}");
        assert!(svg.contains(">0.3<") && svg.contains(">1024<"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn an_axis_ends_at_its_ticks() {
        let axis = Axis::over([512.0, 22_016.0].into_iter(), Scale::Powers(2.0));
        assert_eq!((axis.first, axis.last), (9, 15));
        assert_eq!((axis.place(512.0), axis.place(32_768.0)), (0.0, 1.0));
        let one = Axis::over([10.0].into_iter(), Scale::Powers(10.0));
        assert_eq!((one.first, one.last), (1, 2));
        let steps = Axis::over([0.25, 0.31].into_iter(), Scale::Steps(0.1));
        assert_eq!((steps.first, steps.last), (0, 4));
    }
}
