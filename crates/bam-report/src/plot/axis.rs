//! Axes: values to positions, and where to put ticks.

use super::svg::{line, px, text};
use maud::{Markup, html};

/// A map from values to positions, linear or logarithmic.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    logarithmic: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    pub fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            logarithmic: false,
            low,
            high,
            from,
            to,
        }
    }

    /// Values must be positive.
    pub fn logarithmic((low, high): (f64, f64), span: (f64, f64)) -> Self {
        let low = low.max(f64::MIN_POSITIVE).ln();
        let high = high.max(f64::MIN_POSITIVE).ln();
        let high = if high > low { high } else { low + 1.0 };
        Self {
            logarithmic: true,
            ..Self::linear((low, high), span)
        }
    }

    pub fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic {
            value.max(f64::MIN_POSITIVE).ln()
        } else {
            value
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values inside the axis, about `count` of them.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        let count = count.max(2) as f64;
        if !(self.low.is_finite() && self.high.is_finite()) {
            return Vec::new();
        }
        if self.logarithmic {
            return self.logarithmic_ticks(count);
        }
        let step = round_step((self.high - self.low) / count);
        let first = (self.low / step - 1e-9).ceil();
        (0..40)
            .map(|index| (first + f64::from(index)) * step)
            .take_while(|tick| *tick <= self.high + step * 1e-9)
            .collect()
    }

    fn logarithmic_ticks(&self, count: f64) -> Vec<f64> {
        let decades = (self.high - self.low) / std::f64::consts::LN_10;
        let mantissas: &[f64] = if decades * 3.0 <= count + 2.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let stride = (decades / count).ceil().max(1.0) as i32;
        let first = (self.low / std::f64::consts::LN_10).floor() as i32;
        let last = (self.high / std::f64::consts::LN_10).ceil() as i32;
        let inside = |tick: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&tick.ln());
        let ticks: Vec<f64> = (first..=last)
            .filter(|power| power.rem_euclid(stride) == 0)
            .flat_map(|power| mantissas.iter().map(move |m| m * 10f64.powi(power)))
            .filter(inside)
            .collect();
        if ticks.len() >= 2 {
            return ticks;
        }
        // Less than a decade: round values in the linear sense.
        Axis::linear((self.low.exp(), self.high.exp()), (0.0, 1.0)).ticks(count as usize)
    }
}

fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|mantissa| mantissa * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(power * 10.0)
}

/// The box data is drawn in.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Frame {
    pub fn horizontal(&self) -> (f64, f64) {
        (self.left, self.right)
    }

    /// From the bottom up.
    pub fn vertical(&self) -> (f64, f64) {
        (self.bottom, self.top)
    }

    /// Content cut off at the frame. A nested `svg` clips without an id.
    pub fn clip(&self, content: &Markup) -> Markup {
        let [x, y] = [self.left, self.top].map(px);
        let [width, height] = [self.right - self.left, self.bottom - self.top].map(px);
        html! {
            svg x=(x) y=(y) width=(width) height=(height) viewBox=(format!("{x} {y} {width} {height}")) {
                (content)
            }
        }
    }

    /// A horizontal grid line with its value.
    pub fn row(&self, y: f64, label: &str) -> Markup {
        html! {
            (line("grid", (self.left, y), (self.right, y)))
            (text("tick end", self.left - 8.0, y + 4.0, label))
        }
    }

    /// A tick under the frame.
    pub fn column(&self, x: f64, label: &str) -> Markup {
        html! {
            (line("axis", (x, self.bottom), (x, self.bottom + 5.0)))
            (text("tick middle", x, self.bottom + 18.0, label))
        }
    }

    pub fn base(&self) -> Markup {
        line("axis", (self.left, self.bottom), (self.right, self.bottom))
    }

    /// A vertical mark with words beside it, on the side where there is more room.
    pub fn mark(&self, x: f64, label: &str) -> Markup {
        let (class, offset) = if x > (self.left + self.right) / 2.0 {
            ("note end", -6.0)
        } else {
            ("note", 6.0)
        };
        html! {
            (line("mark", (x, self.top - 20.0), (x, self.bottom)))
            (text(class, x + offset, self.top - 11.0, label))
        }
    }
}

/// Of positions with label widths, ascending, those that fit side by side: the last always, then every n-th before it.
pub fn thin(labels: &[(f64, f64)], gap: f64) -> Vec<usize> {
    let fits = |chosen: &[usize]| {
        chosen.windows(2).all(|pair| {
            let ((a, a_width), (b, b_width)) = (labels[pair[0]], labels[pair[1]]);
            b - a >= (a_width + b_width) / 2.0 + gap
        })
    };
    (1..=labels.len())
        .map(|stride| {
            let mut chosen: Vec<usize> = (0..labels.len()).rev().step_by(stride).collect();
            chosen.reverse();
            chosen
        })
        .find(|chosen| fits(chosen))
        .unwrap_or_default()
}

/// Positions moved apart to at least `gap`, inside `low..high`, in the order given by their wishes.
pub fn spread(wishes: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by(|a, b| wishes[*a].total_cmp(&wishes[*b]));
    let mut placed = vec![0.0; wishes.len()];
    let mut next = low;
    for index in &order {
        placed[*index] = wishes[*index].max(next);
        next = placed[*index] + gap;
    }
    let mut limit = high;
    for index in order.iter().rev() {
        placed[*index] = placed[*index].min(limit);
        limit = placed[*index] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_survive_a_single_value() {
        assert!(Axis::linear((3.0, 3.0), (0.0, 100.0)).at(3.0).is_finite());
        assert!(
            Axis::logarithmic((0.0, 0.0), (0.0, 100.0))
                .at(0.0)
                .is_finite()
        );
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            Axis::linear((0.0, 1.0), (0.0, 1.0)).ticks(4),
            [0.0, 0.25, 0.5, 0.75, 1.0]
        );
        assert_eq!(
            Axis::logarithmic((1.0, 1e4), (0.0, 1.0)).ticks(5),
            [1.0, 10.0, 100.0, 1000.0, 10_000.0]
        );
        assert_eq!(
            Axis::logarithmic((11.0, 19.0), (0.0, 1.0)).ticks(4),
            [12.0, 14.0, 16.0, 18.0]
        );
        assert!(
            Axis::linear((f64::NAN, 1.0), (0.0, 1.0))
                .ticks(4)
                .is_empty()
        );
    }

    #[test]
    fn labels_are_kept_apart() {
        let placed = spread(&[10.0, 11.0, 12.0, 100.0], 15.0, (0.0, 60.0));
        assert_eq!(placed, [10.0, 25.0, 40.0, 60.0]);
        let bottom = spread(&[60.0, 60.0, 60.0], 15.0, (0.0, 60.0));
        assert_eq!(bottom, [30.0, 45.0, 60.0]);
    }

    #[test]
    fn thinned_labels_keep_the_last() {
        let labels: Vec<(f64, f64)> = (0..9).map(|i| (f64::from(i) * 20.0, 30.0)).collect();
        assert_eq!(thin(&labels, 4.0), [0, 2, 4, 6, 8]);
        assert_eq!(thin(&[], 4.0), Vec::<usize>::new());
    }
}
