//! How long the number is that is being written, in JSON or in a call within text.

/// Where in an answer we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// JSON begins after it, if it is not empty; its first byte comes once in it.
    marker: &'static str,
    /// How much of it has come last.
    marked: usize,
    in_string: bool,
    escaped: bool,
    /// Digits in a row.
    digits: usize,
    /// Whether they are an exponent.
    exponent: bool,
}

impl Numbers {
    pub(super) fn after(marker: &'static str) -> Self {
        Self {
            marker,
            marked: 0,
            in_string: false,
            escaped: false,
            digits: 0,
            exponent: false,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.step(*byte));
    }

    /// Whether no number is too long once these came.
    pub(super) fn fit(mut self, bytes: &[u8]) -> bool {
        // In a string anything fits.
        self.in_string
            || bytes.iter().all(|byte| {
                self.step(*byte);
                let most = if self.exponent {
                    MAX_EXPONENT
                } else {
                    MAX_DIGITS
                };
                self.digits <= most
            })
    }

    fn step(&mut self, byte: u8) {
        let marker = self.marker.as_bytes();
        self.marked = match marker.get(self.marked) {
            Some(next) if *next == byte => self.marked.saturating_add(1),
            _ => usize::from(marker.first() == Some(&byte)),
        };
        if self.marked > 0 && self.marked == marker.len() {
            *self = Self::after(self.marker);
            return;
        }
        match (self.in_string, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_string = !self.in_string,
            _ => {}
        }
        match byte {
            b'0'..=b'9' if !self.in_string => self.digits = self.digits.saturating_add(1),
            b'e' | b'E' if self.digits > 0 => (self.digits, self.exponent) = (0, true),
            b'+' | b'-' if self.exponent => {}
            _ => (self.digits, self.exponent) = (0, false),
        }
    }
}

/// Of an integer or a fraction: more than any double needs.
pub(super) const MAX_DIGITS: usize = 18;

/// Of an exponent: less than any double has.
const MAX_EXPONENT: usize = 2;
