//! Whole numbers as users write them: decimal, `0x` hexadecimal or octal with a leading zero, with an optional sign.
//!
//! Sizes with suffixes are in [`size`](super::size); there a leading zero means nothing.

/// Why a text is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberError {
    /// Not digits, or followed by something else.
    Malformed,
    /// More than the type holds.
    TooLarge,
}

/// Parses a number below 2^64. As in C, a negative one wraps: `-1` is the largest.
///
/// # Errors
/// See [`NumberError`].
pub fn parse_u64(text: &str) -> Result<u64, NumberError> {
    let (negative, magnitude) = scan(text)?;
    Ok(if negative { magnitude.wrapping_neg() } else { magnitude })
}

/// Parses a number from -2^63 to 2^63 - 1.
///
/// # Errors
/// See [`NumberError`].
pub fn parse_i64(text: &str) -> Result<i64, NumberError> {
    let (negative, magnitude) = scan(text)?;
    let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    value.try_into().map_err(|_| NumberError::TooLarge)
}

/// Sign and magnitude. Blanks may lead, nothing may follow.
fn scan(text: &str) -> Result<(bool, u64), NumberError> {
    let text = trim_start(text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Malformed);
    }
    let magnitude = u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)?;
    Ok((negative, magnitude))
}

/// Drops what C's `isspace` calls white space.
pub(super) fn trim_start(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_chooses_the_base() {
        for (text, want) in
            [("10", 10), ("0x10", 16), ("0X1f", 31), ("010", 8), ("0", 0), (" +7", 7), ("00", 0)]
        {
            assert_eq!(parse_u64(text), Ok(want), "{text}");
            assert_eq!(parse_i64(text), Ok(i64::try_from(want).unwrap()), "{text}");
        }
    }

    #[test]
    fn negative_numbers_wrap_only_when_unsigned() {
        assert_eq!(parse_u64("-1"), Ok(u64::MAX));
        assert_eq!(parse_i64("-0x1"), Ok(-1));
        assert_eq!(parse_i64("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64("-9223372036854775809"), Err(NumberError::TooLarge));
        assert_eq!(parse_i64("9223372036854775808"), Err(NumberError::TooLarge));
        assert_eq!(parse_u64("18446744073709551616"), Err(NumberError::TooLarge));
    }

    #[test]
    fn anything_after_the_digits_is_malformed() {
        for text in ["", "-", "+", "0x", "08", "1 ", "1k", "1.0", "1e1", "+-1", "x", "٣"] {
            assert_eq!(parse_u64(text), Err(NumberError::Malformed), "{text}");
        }
    }
}
