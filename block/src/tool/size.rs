//! Sizes for people.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Three significant digits and a binary unit: `1.5 GiB`, `512 B`.
pub fn human(bytes: u64) -> String {
    let mut unit = 0;
    // The unit changes where three digits would no longer show the value (1000 KiB is 0.977 MiB).
    while unit + 1 < UNITS.len() && bytes as f64 / scale(unit) >= 999.5 {
        unit += 1;
    }
    let value = bytes as f64 / scale(unit);
    format!("{} {}", significant(value), UNITS[unit])
}

fn scale(unit: usize) -> f64 {
    1024f64.powi(i32::try_from(unit).unwrap_or(0))
}

/// Three significant digits, trailing zeroes of a fraction removed (as `%0.3g` prints it).
fn significant(value: f64) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn three_digits_and_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (1_048_064, "1 MiB"),
            (1_048_576, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (1_234_567_890, "1.15 GiB"),
            (10 << 40, "10 TiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
