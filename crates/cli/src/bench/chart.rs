//! Curves of time and memory over tokens, both axes logarithmic, as SVG.

use std::{collections::BTreeMap, fmt::Write};

use super::efficiency::Point;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
/// Space around a panel: left, top, right, bottom.
const MARGIN: [f64; 4] = [62.0, 40.0, 18.0, 46.0];
/// One curve, one colour: told apart without seeing red from green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000"];

/// What a panel shows of a point.
type Figure = fn(&Point) -> Option<f64>;

/// Two panels, time and memory; the second is left out where no memory was measured.
pub fn svg(machine: &str, points: &[Point]) -> String {
    let mut curves: BTreeMap<String, Vec<&Point>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.median_ms.is_some()) {
        curves.entry(name(point)).or_default().push(point);
    }
    let panels: [(&str, Figure); 2] =
        [("ms, median", |point| point.median_ms), ("MiB over the weights", |point| point.peak_mib)];
    let panels: Vec<_> = panels
        .into_iter()
        .filter(|(_, value)| points.iter().any(|point| value(point).is_some_and(|v| v > 0.0)))
        .collect();
    let legend = 18.0 * curves.len() as f64 + 16.0;
    let (width, height) = (WIDTH * panels.len().max(1) as f64, HEIGHT + legend);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (title, value)) in panels.iter().enumerate() {
        let left = WIDTH * index as f64;
        panel(&mut svg, left, &format!("{title} · {}", escape(machine)), &curves, *value);
    }
    for (index, curve) in curves.keys().enumerate() {
        let y = HEIGHT + 14.0 + 18.0 * index as f64;
        let colour = COLOURS[index % COLOURS.len()];
        let x = MARGIN[0];
        let _ = writeln!(
            svg,
            "<path d=\"M{x} {y}h24\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x + 32.0,
            y + 4.0,
            escape(curve)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn name(point: &Point) -> String {
    let Point { network, size, precision, batch, .. } = point;
    format!("{network} {size} {precision}, batch {batch}")
}

fn panel(
    svg: &mut String,
    left: f64,
    title: &str,
    curves: &BTreeMap<String, Vec<&Point>>,
    value: Figure,
) {
    let all = || curves.values().flatten();
    let x_axis = Axis::over(all().map(|point| point.tokens as f64), 2.0);
    let y_axis = Axis::over(all().filter_map(|point| value(point)).filter(|&v| v > 0.0), 10.0);
    let [margin_left, top, right, bottom] = MARGIN;
    let (x0, x1) = (left + margin_left, left + WIDTH - right);
    let (y0, y1) = (HEIGHT - bottom, top);
    let x = |tokens: f64| x0 + x_axis.place(tokens) * (x1 - x0);
    let y = |value: f64| y0 + y_axis.place(value) * (y1 - y0);
    let _ = writeln!(svg, "<text x=\"{x0}\" y=\"22\" font-weight=\"bold\">{title}</text>");
    for tick in y_axis.ticks() {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{x0} {at:.1}H{x1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            x0 - 6.0,
            at + 4.0
        );
    }
    for tick in x_axis.ticks() {
        let at = x(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {y0}V{y1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y0 + 16.0,
            tick as u64
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">tokens</text>",
        f64::midpoint(x0, x1),
        y0 + 34.0
    );
    for (index, points) in curves.values().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let places: Vec<(f64, f64)> = points
            .iter()
            .filter_map(|point| {
                Some((x(point.tokens as f64), y(value(point).filter(|&v| v > 0.0)?)))
            })
            .collect();
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
    }
}

/// A logarithmic axis between two powers of its base.
struct Axis {
    base: f64,
    first: i32,
    last: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, base: f64) -> Self {
        let (low, high) = values
            .map(|value| value.log(base))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let first = (low + 1e-9).floor() as i32;
        Self { base, first, last: ((high - 1e-9).ceil() as i32).max(first + 1) }
    }

    /// From 0 at the start to 1 at the end.
    fn place(&self, value: f64) -> f64 {
        (value.log(self.base) - f64::from(self.first)) / f64::from(self.last - self.first)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let base = self.base;
        (self.first..=self.last).map(move |power| base.powi(power))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use ssamba_contract::Precision;

    use super::*;

    fn point(tokens: usize, median_ms: Option<f64>) -> Point {
        Point {
            network: "ssamba",
            size: "tiny",
            precision: Precision::F16,
            batch: 4,
            tokens,
            median_ms,
            min_ms: None,
            tensors_mib: None,
            peak_mib: None,
            failed: None,
        }
    }

    #[test]
    fn a_chart_holds_every_point_that_was_measured() {
        let points = [point(512, Some(1.5)), point(1_024, Some(3.0)), point(2_048, None)];
        let svg = svg("a <GPU>", &points);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("ssamba tiny fp16, batch 4"), "{svg}");
        assert!(svg.contains("a &lt;GPU&gt;") && !svg.contains("MiB"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn an_axis_ends_at_powers_of_its_base() {
        let axis = Axis::over([512.0, 22_016.0].into_iter(), 2.0);
        assert_eq!((axis.first, axis.last), (9, 15));
        assert_eq!((axis.place(512.0), axis.place(32_768.0)), (0.0, 1.0));
        let one = Axis::over([10.0].into_iter(), 10.0);
        assert_eq!((one.first, one.last), (1, 2));
    }
}
