//! Looks for the texts that end an answer, across the pieces in which it comes.

/// Holds back what may become a stop text.
pub(crate) struct Stop {
    texts: Vec<String>,
    held: String,
}

/// What may be said after a piece.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Said {
    /// This; the answer goes on.
    More(String),
    /// This, and then a stop text came.
    Last(String),
}

impl Stop {
    pub(crate) fn new(texts: Vec<String>) -> Self {
        Self {
            texts,
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Said {
        self.held.push_str(piece);
        // The one that was complete first, as if each character had come alone.
        let found = self.texts.iter().filter_map(|text| {
            let at = self.held.find(text)?;
            Some((at.saturating_add(text.len()), at))
        });
        if let Some((_, at)) = found.min() {
            self.held.truncate(at);
            return Said::Last(std::mem::take(&mut self.held));
        }
        let held = self.texts.iter().map(|text| overlap(&self.held, text));
        let said = self.held.len().saturating_sub(held.max().unwrap_or(0));
        Said::More(self.held.drain(..said).collect())
    }

    /// What was held back in vain.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `held` that `text` begins with.
pub(crate) fn overlap(held: &str, text: &str) -> usize {
    let ends = held
        .char_indices()
        .map(|(at, _)| held.get(at..).unwrap_or_default());
    ends.filter(|end| text.starts_with(end))
        .map(str::len)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stop(texts: &[&str]) -> Stop {
        Stop::new(texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn without_stop_texts_nothing_is_held_back() {
        assert_eq!(stop(&[]).push("abc"), Said::More("abc".into()));
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_not_said() {
        let mut stop = stop(&["END"]);
        assert_eq!(stop.push("the E"), Said::More("the ".into()));
        assert_eq!(stop.push("N"), Said::More(String::new()));
        assert_eq!(stop.push("D of it"), Said::Last(String::new()));
    }

    #[test]
    fn what_was_held_back_in_vain_is_said_later() {
        let mut stop = stop(&["END"]);
        assert_eq!(stop.push("EN"), Said::More(String::new()));
        assert_eq!(stop.push("T"), Said::More("ENT".into()));
        assert_eq!(stop.push("E"), Said::More(String::new()));
        assert_eq!(stop.finish(), "E");
    }

    #[test]
    fn the_first_to_be_complete_wins() {
        assert_eq!(stop(&["c", "b"]).push("abc"), Said::Last("a".into()));
        assert_eq!(stop(&["abc", "b"]).push("abc"), Said::Last("a".into()));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[abé]{0,24}",
            cuts in proptest::collection::vec(1_usize..4, 24),
            texts in proptest::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let mut stop = Stop::new(texts.clone());
            let mut said = String::new();
            let mut ended = false;
            let mut chars = text.chars().peekable();
            for cut in cuts {
                let piece: String = chars.by_ref().take(cut).collect();
                match stop.push(&piece) {
                    Said::More(more) => said += &more,
                    Said::Last(last) => { said += &last; ended = true; break; }
                }
            }
            if !ended {
                said += &stop.finish();
            }
            let found = |stop: &String| text.find(stop).map(|at| (at + stop.len(), at));
            match texts.iter().filter_map(found).min() {
                Some((_, at)) => prop_assert_eq!(&said, &text[..at]),
                None => prop_assert_eq!(&said, &text),
            }
        }
    }
}
