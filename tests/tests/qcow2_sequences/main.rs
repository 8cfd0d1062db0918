//! Random sequences of commands on qcow2 images, by our programs and by the real ones from the same start: they fail and
//! succeed alike, both tools find both images clean, and both read the same from both.
//!
//! 100 sequences, 2,000 with `BLOCKIMG_LONG`; `BLOCKIMG_SEED` and `BLOCKIMG_COUNT` choose others ([`tests::seeds`]).

#![forbid(unsafe_code)]

mod command;
mod kind;
mod sequence;
mod start;

use command::Tally;
use kind::{all, kinds, pairs};
use sequence::Sequence;
use start::Starts;
use std::collections::HashSet;
use tests::seeds::Seeds;

/// What goes wrong with the shortest beginning of a sequence that does.
fn explain(starts: &Starts<'_>, seed: u64, tally: &Tally) -> Option<String> {
    const COMMANDS: usize = 8;
    let (kind, start) = starts.of(seed);
    let run = |length, tally: &Tally| Sequence::new(kind, &start, seed).run(length, tally).err();
    kind.features().into_iter().for_each(|(name, value)| tally.count(format!("({name} {value})")));
    let whole = run(COMMANDS, tally)?;
    let shorter = (1..COMMANDS).find_map(|length| run(length, &Tally::default()));
    Some(format!("seed {seed}, {kind:?}\n  {}", shorter.unwrap_or(whole)))
}

#[test]
fn sequences_of_commands_leave_what_the_real_tools_leave() {
    let (kinds, tally, seeds) = (kinds(), Tally::default(), Seeds::asked(100, 2000));
    let starts = Starts::new(&kinds);
    let found = seeds.run(|seed| explain(&starts, seed, &tally));
    println!(
        "{} sequences over {} kinds of image; what worked in them:\n{tally}",
        seeds.count(),
        kinds.len()
    );
    assert!(found.is_empty(), "{} sequences differ:\n{}", found.len(), found.join("\n"));
    let missing = tally.missing();
    assert!(seeds.count() < 100 || missing.is_empty(), "never worked: {missing:?}");
}

#[test]
fn the_kinds_of_image_have_every_pair_of_features_that_goes_together() {
    let kinds = kinds();
    let [tried, possible]: [HashSet<_>; 2] =
        [&kinds, &all()].map(|kinds| kinds.iter().flat_map(pairs).collect());
    assert_eq!(tried, possible);
    assert!(kinds.len() < 60, "{} kinds", kinds.len());
}
