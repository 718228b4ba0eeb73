//! Words for messages.

/// At most `most` of them, and how many more there are: `3, 17 and 5 more`.
pub fn first_few(all: impl ExactSizeIterator<Item = String>, most: usize) -> String {
    let more = all.len().saturating_sub(most);
    let named = all.take(most).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_ends_with_how_many_more_there_are() {
        let list = |count: usize| first_few((0..count).map(|number| number.to_string()), 3);
        assert_eq!(list(0), "");
        assert_eq!(list(3), "0, 1, 2");
        assert_eq!(list(5), "0, 1, 2 and 2 more");
    }
}
