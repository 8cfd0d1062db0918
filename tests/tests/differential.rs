//! Random command lines agree with the real tools.
//!
//! `BLOCKIMG_SEED=N BLOCKIMG_COUNT=M` runs M command lines from the sequence N on; BLOCKIMG_LONG runs 5,000.

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_command_lines_agree_with_the_real_tools() {
    let long = std::env::var_os("BLOCKIMG_LONG").is_some();
    let count = number("BLOCKIMG_COUNT").unwrap_or(if long { 5000 } else { 200 });
    let differences = tests::differential::run(number("BLOCKIMG_SEED").unwrap_or(1), count);
    let text: String = differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{} of {count} differ\n{text}", differences.len());
}
