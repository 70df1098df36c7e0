//! Images in a sequence of tokens.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use media::{Image, Pixels};
use zeroize::Zeroizing;

use super::llava::Llava;
use super::processor::Processor;
use crate::error::RequestError;
use crate::kernel::pool::Pool;

/// What stands for an image in a prompt.
#[derive(Clone, Debug)]
pub(crate) struct Placeholder {
    /// What makes an image fit the model.
    pub(crate) processor: Arc<Processor>,
    pub(crate) token: u32,
    /// Tokens of an image.
    pub(crate) count: usize,
}

impl Placeholder {
    /// Makes room in a prompt in which one token stands for each image.
    pub(crate) fn expand(
        &self,
        prompt: &[u32],
        images: &[&Image],
    ) -> Result<(Zeroizing<Vec<u32>>, Vec<Sight>), RequestError> {
        let places = || prompt.iter().filter(|token| **token == self.token);
        if places().count() != images.len() {
            return Err(RequestError::Images {
                found: places().count(),
                expected: images.len(),
            });
        }
        let mut tokens = Zeroizing::new(Vec::with_capacity(self.expanded(prompt, images.len())));
        let mut sights = Vec::with_capacity(images.len());
        let fitted = match images {
            [] => Vec::new(),
            _ => self.processor.fit_all(images.iter().copied())?,
        };
        let mut left = images.iter().zip(fitted);
        for token in prompt {
            let image = left.by_ref().take(usize::from(*token == self.token)).next();
            let Some((image, pixels)) = image else {
                tokens.push(*token);
                continue;
            };
            sights.push(Sight {
                mark: Mark {
                    start: tokens.len(),
                    count: self.count,
                    digest: image.digest(),
                },
                image: pixels,
                rows: Zeroizing::default(),
            });
            tokens.extend(std::iter::repeat_n(*token, self.count));
        }
        Ok((tokens, sights))
    }

    /// Tokens of a prompt with so many images.
    pub(crate) fn expanded(&self, prompt: &[u32], images: usize) -> usize {
        let more = images.saturating_mul(self.count.saturating_sub(1));
        prompt.len().saturating_add(more)
    }
}

/// Where an image is, and which.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Mark {
    /// Its first token.
    pub(crate) start: usize,
    /// Its tokens.
    pub(crate) count: usize,
    pub(crate) digest: [u8; 32],
}

impl Mark {
    /// Whether any of its tokens is one of these.
    pub(crate) fn is_in(&self, tokens: &Range<usize>) -> bool {
        self.start < tokens.end && tokens.start < self.start.saturating_add(self.count)
    }
}

/// An image in a sequence.
pub(crate) struct Sight {
    pub(crate) mark: Mark,
    image: Pixels,
    /// What stands for its tokens' embeddings, if that has been computed.
    rows: Zeroizing<Vec<f32>>,
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sight({} tokens)", self.mark.count)
    }
}

impl Sight {
    /// One of which only its place and the first byte of its digest are known.
    #[cfg(test)]
    pub(crate) fn mark_only(start: usize, count: usize, digest: u8) -> Self {
        Self {
            mark: Mark {
                start,
                count,
                digest: [digest; 32],
            },
            image: Pixels {
                width: 0,
                height: 0,
                levels: Zeroizing::default(),
            },
            rows: Zeroizing::default(),
        }
    }

    /// Sees what is needed for `tokens`; says whether it could.
    pub(crate) fn look(&mut self, model: &Llava, pool: &mut Pool, tokens: &Range<usize>) -> bool {
        if !self.mark.is_in(tokens) || !self.rows.is_empty() {
            return true;
        }
        match model.see(pool, &self.image) {
            Ok(rows) if rows.iter().all(|number| number.is_finite()) => {
                self.rows = rows;
                true
            }
            _ => false,
        }
    }

    /// Lets go of what is not needed once `tokens` have been read.
    pub(crate) fn forget(&mut self, tokens: usize) {
        if self.mark.start.saturating_add(self.mark.count) <= tokens {
            self.rows = Zeroizing::default();
        }
    }

    /// Puts what has been seen in place of embeddings, `x`, a row of `width` for each
    /// token from `first` on.
    pub(crate) fn place(&self, first: usize, width: usize, x: &mut [f32]) {
        let seen = self.rows.chunks_exact(width);
        let rows = x.chunks_exact_mut(width);
        let seen = seen.skip(first.saturating_sub(self.mark.start));
        for (row, seen) in rows.skip(self.mark.start.saturating_sub(first)).zip(seen) {
            row.copy_from_slice(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_where_their_tokens_are_in_any_piece() {
        let mut sight = Sight::mark_only(3, 4, 0);
        sight.rows = Zeroizing::new((1_u8..=8).map(f32::from).collect());
        let piece = |first, count: usize| {
            let mut x = vec![0.0; count * 2];
            sight.place(first, 2, &mut x);
            x
        };
        let whole = [
            0., 0., 0., 0., 0., 0., 1., 2., 3., 4., 5., 6., 7., 8., 0., 0.,
        ];
        assert_eq!(piece(0, 8), whole);
        for first in 0..8 {
            for count in 0..8 - first {
                assert_eq!(piece(first, count), whole[first * 2..][..count * 2]);
            }
        }
    }

    #[test]
    fn an_image_is_in_the_pages_that_it_touches() {
        let mark = Sight::mark_only(3, 4, 0).mark;
        for (tokens, expected) in [(0..3, false), (0..4, true), (6..9, true), (7..9, false)] {
            assert_eq!(mark.is_in(&tokens), expected);
        }
    }
}
