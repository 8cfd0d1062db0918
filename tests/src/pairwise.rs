//! A choice of combinations in which every pair of values occurs.

/// Of the combinations `left`, so many that every pair (as `pairs` names them) that occurs at all occurs at least once.
/// Greedy: always the combination with the most pairs not seen yet.
pub fn pairwise<T, P: PartialEq>(mut left: Vec<T>, pairs: impl Fn(&T) -> Vec<P>) -> Vec<T> {
    let mut seen = Vec::new();
    let mut chosen = Vec::new();
    loop {
        let news = |of: &T| pairs(of).iter().filter(|pair| !seen.contains(*pair)).count();
        let Some((best, new)) =
            left.iter().map(news).enumerate().max_by_key(|(i, new)| (*new, usize::MAX - i))
        else {
            break;
        };
        if new == 0 {
            break;
        }
        let best = left.swap_remove(best);
        seen.extend(pairs(&best));
        chosen.push(best);
    }
    chosen
}
