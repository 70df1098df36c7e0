//! What JSON takes in memory when it is understood, found by reading it without keeping it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Most bytes that a [`Value`] takes while it is made, copied, or turned into types.
#[derive(Clone, Copy, Debug)]
pub struct Cost(pub usize);

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Counter).map(Self)
    }
}

/// Counts what a value has elsewhere: its own place is its list's or its object's.
struct Counter;

impl<'de> Visitor<'de> for Counter {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_bool<E>(self, _: bool) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_i64<E>(self, _: i64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_u64<E>(self, _: u64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(0)
    }

    fn visit_str<E>(self, text: &str) -> Result<usize, E> {
        Ok(string(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
        let (mut count, mut total) = (0_usize, 0_usize);
        while let Some(Cost(cost)) = list.next_element()? {
            count = count.saturating_add(1);
            total = total.saturating_add(cost);
        }
        // It doubles, and has four places at least.
        let places = match count {
            0 => 0,
            _ => count.next_power_of_two().max(4),
        };
        let list = places.saturating_mul(size_of::<Value>());
        Ok(total.saturating_add(moved(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let (mut count, mut total) = (0_usize, 0_usize);
        while let Some((Name(name), Cost(cost))) = map.next_entry()? {
            count = count.saturating_add(1);
            total = total.saturating_add(name).saturating_add(cost);
        }
        // An eighth of its buckets is free.
        let buckets = match count {
            0 => 0,
            _ => count
                .saturating_mul(8)
                .div_ceil(7)
                .next_power_of_two()
                .max(4),
        };
        let map = buckets.saturating_mul(BUCKET);
        Ok(total.saturating_add(moved(map)))
    }
}

/// What an object's name has elsewhere.
struct Name(usize);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(Counter).map(Self)
    }
}

/// A string, what it was put together in, and what the allocator rounds it up to.
fn string(text: &str) -> usize {
    text.len().saturating_mul(3).saturating_add(ROUNDED)
}

/// There is an old and a new one while it grows, is copied, or is turned into types.
fn moved(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        bytes => bytes.saturating_mul(2).saturating_add(ROUNDED),
    }
}

/// Name, value and hash of an entry, its index, and a byte that says so.
const BUCKET: usize = size_of::<(u64, String, Value)>() + size_of::<usize>() + 1;

/// Most that small allocations take beside what was asked for.
const ROUNDED: usize = 48;
