//! Moments, as certificates and collateral write them.
//!
//! There is no clock here: the time to judge by is always an argument.

use core::fmt;

/// Seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Reads `2026-10-08T00:09:46Z`, the one form that Intel's JSON uses.
    #[must_use]
    pub fn from_iso8601(text: &str) -> Option<Self> {
        let [
            y1,
            y2,
            y3,
            y4,
            b'-',
            m1,
            m2,
            b'-',
            d1,
            d2,
            b'T',
            h1,
            h2,
            b':',
            n1,
            n2,
            b':',
            s1,
            s2,
            b'Z',
        ] = *<&[u8; 20]>::try_from(text.as_bytes()).ok()?
        else {
            return None;
        };
        Self::from_digits(&[y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, n1, n2, s1, s2])
    }

    /// Reads `YYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5.1): 50 and above is 19xx.
    #[must_use]
    pub fn from_utc_time(text: &[u8]) -> Option<Self> {
        let (digits, b"Z") = text.split_first_chunk::<12>()? else {
            return None;
        };
        let century = if digits.first() >= Some(&b'5') {
            b"19"
        } else {
            b"20"
        };
        let mut full = [0; 14];
        let (head, tail) = full.split_first_chunk_mut::<2>()?;
        *head = *century;
        tail.copy_from_slice(digits);
        Self::from_digits(&full)
    }

    /// Reads `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5.2).
    #[must_use]
    pub fn from_generalized_time(text: &[u8]) -> Option<Self> {
        let (digits, b"Z") = text.split_first_chunk::<14>()? else {
            return None;
        };
        Self::from_digits(digits)
    }

    fn from_digits(digits: &[u8; 14]) -> Option<Self> {
        let [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, n1, n2, s1, s2] = *digits;
        let year = two(y1, y2)?.checked_mul(100)?.checked_add(two(y3, y4)?)?;
        let days = days_to(year, two(m1, m2)?, two(d1, d2)?)?;
        let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        days.checked_mul(24)?
            .checked_add(hour)?
            .checked_mul(60)?
            .checked_add(minute)?
            .checked_mul(60)?
            .checked_add(second)
            .map(Self)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (unix)", self.0)
    }
}

/// When something holds; both ends belong to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Window {
    /// First second.
    pub from: UnixTime,
    /// Last second.
    pub until: UnixTime,
}

impl Window {
    /// Says on which side of the window `at` lies, if not in it.
    pub fn check(self, at: UnixTime) -> Result<(), OutsideWindow> {
        if at < self.from {
            return Err(OutsideWindow::Early {
                at,
                from: self.from,
            });
        }
        if at > self.until {
            return Err(OutsideWindow::Late {
                at,
                until: self.until,
            });
        }
        Ok(())
    }

    /// When both hold. Empty, so that every check fails, where they never do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            until: self.until.min(other.until),
        }
    }
}

/// The stated time is not one at which this holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OutsideWindow {
    /// Too early.
    #[error("valid from {from}, checked at {at}")]
    Early {
        /// The stated time.
        at: UnixTime,
        /// First second of the window.
        from: UnixTime,
    },
    /// Too late.
    #[error("valid until {until}, checked at {at}")]
    Late {
        /// The stated time.
        at: UnixTime,
        /// Last second of the window.
        until: UnixTime,
    },
}

impl OutsideWindow {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Early { .. } => "not-yet-valid",
            Self::Late { .. } => "expired",
        }
    }
}

fn two(tens: u8, ones: u8) -> Option<u64> {
    let digit = |byte: u8| char::from(byte).to_digit(10).map(u64::from);
    digit(tens)?.checked_mul(10)?.checked_add(digit(ones)?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month.checked_sub(1)?).ok()?;
    let (before, rest) = months.split_at_checked(index)?;
    if day == 0 || day > *rest.first()? {
        return None;
    }
    days_before(year)?
        .checked_sub(days_before(1970)?)?
        .checked_add(before.iter().sum())?
        .checked_add(day.checked_sub(1)?)
}

/// Days from the first of January of year 1 to that of `year`.
fn days_before(year: u64) -> Option<u64> {
    let last = year.checked_sub(1)?;
    let (fours, hundreds) = (last.checked_div(4)?, last.checked_div(100)?);
    last.checked_mul(365)?
        .checked_add(fours)?
        .checked_sub(hundreds)?
        .checked_add(last.checked_div(400)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_three_forms_give_the_same_moment() {
        let expected = Some(UnixTime(1_791_418_186));
        assert_eq!(UnixTime::from_iso8601("2026-10-08T00:09:46Z"), expected);
        assert_eq!(UnixTime::from_utc_time(b"261008000946Z"), expected);
        assert_eq!(
            UnixTime::from_generalized_time(b"20261008000946Z"),
            expected
        );
    }

    #[test]
    fn leap_days_and_centuries_count() {
        let at = |text| UnixTime::from_generalized_time(text).map(|time| time.0);
        assert_eq!(at(b"19700101000000Z"), Some(0));
        assert_eq!(at(b"20000301000000Z"), Some(951_868_800));
        assert_eq!(at(b"21000301000000Z"), Some(4_107_542_400));
        assert_eq!(at(b"99991231235959Z"), Some(253_402_300_799));
        assert_eq!(UnixTime::from_utc_time(b"500101000000Z"), None, "1950");
    }

    #[test]
    fn moments_that_do_not_exist_are_refused() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00+",
            "2026-01-01 00:00:00Z",
            "+026-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00",
        ] {
            assert_eq!(UnixTime::from_iso8601(text), None, "{text}");
        }
        assert_eq!(UnixTime::from_utc_time(b"2610080009Z"), None);
        assert_eq!(UnixTime::from_generalized_time(b"20261008000946"), None);
    }

    #[test]
    fn both_ends_belong_to_a_window() {
        let window = Window {
            from: UnixTime(10),
            until: UnixTime(20),
        };
        assert_eq!(window.check(UnixTime(10)), Ok(()));
        assert_eq!(window.check(UnixTime(20)), Ok(()));
        let early = window.check(UnixTime(9)).unwrap_err();
        assert_eq!(
            early.to_string(),
            "valid from 10 (unix), checked at 9 (unix)"
        );
        let late = window.check(UnixTime(21)).unwrap_err();
        assert_eq!(
            late.to_string(),
            "valid until 20 (unix), checked at 21 (unix)"
        );
    }

    #[test]
    fn windows_that_never_meet_are_empty() {
        let first = Window {
            from: UnixTime(0),
            until: UnixTime(9),
        };
        let second = Window {
            from: UnixTime(10),
            until: UnixTime(20),
        };
        let both = first.and(second);
        assert!((0..30).all(|at| both.check(UnixTime(at)).is_err()));
    }
}
