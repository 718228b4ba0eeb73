//! Where an axis carries numbers, and how they are written.

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// About `count` round numbers between `low` and `high`.
pub(super) fn linear(low: f64, high: f64, count: usize) -> Vec<Tick> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![Tick { value: low, label: format_number(low, low.abs() * 1e-3) }];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step =
        power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0);
    let slack = 1e-9 * (high - low);
    let first = ((low - slack) / step).ceil() as i64;
    let last = ((high + slack) / step).floor() as i64;
    let tick =
        |i: i64| Tick { value: i as f64 * step, label: format_number(i as f64 * step, step) };
    (first..=last).map(tick).collect()
}

/// Decades between `low` and `high`, with the 2s and 5s, or round numbers, where they are few.
pub(super) fn logarithmic(low: f64, high: f64, count: usize) -> Vec<Tick> {
    let decades = high.log10() - low.log10();
    if decades < 1.0 {
        return linear(low, high, count);
    }
    let multiples: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    for exponent in low.log10().floor() as i32..=high.log10().ceil() as i32 {
        for multiple in multiples {
            let value = multiple * 10f64.powi(exponent);
            if (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(&value) {
                ticks.push(Tick { value, label: format_number(value, value) });
            }
        }
    }
    ticks
}

/// A number in three digits, for a label on its own.
pub(super) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let power = value.abs().log10().floor();
    match (1e-4..1e5).contains(&value.abs()) {
        true => format!("{value:.*}", (2.0 - power).max(0.0) as usize).replace('-', "−"),
        false => format_number(value, 10f64.powf(power - 2.0)),
    }
}

/// As many digits as neighbours `step` apart need.
fn format_number(value: f64, step: f64) -> String {
    let text = if value == 0.0 {
        "0".to_string()
    } else if value.abs() >= 1e5 || step.abs() < 0.9e-4 {
        let digits = (value.abs().log10().floor() - step.abs().log10().floor()).max(0.0);
        format!("{value:.*e}", digits as usize)
    } else {
        format!("{value:.*}", (-step.abs().log10() - 1e-9).ceil().max(0.0) as usize)
    };
    text.replace('-', "−")
}
