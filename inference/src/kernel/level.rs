//! Sixteen numbers at a time, by whatever instructions this processor has.
//!
//! Every operation gives the same bits on every level: products and sums are
//! rounded one by one (never fused), integers are exact, and halves are converted
//! as IEEE 754 says. So a kernel that is written over [`Level`] gives the same
//! bits everywhere, and what is tested on one machine holds on another.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "lanes of fixed size; what wraps or rounds here is what the instruction does"
)]

/// Numbers in a register, of whatever size.
pub(crate) const LANES: usize = 16;

/// The instructions of a processor. A value is the proof that it has them.
pub(crate) trait Level: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixty-four bytes.
    type B: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where either is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// From IEEE 754 halves.
    fn halves(self, x: &[u16; LANES]) -> Self::F;
    /// To IEEE 754 halves, to the nearest, ties to even.
    fn to_halves(self, x: Self::F) -> [u16; LANES];
    /// From the upper halves of f32.
    fn upper_halves(self, x: &[u16; LANES]) -> Self::F;
    fn bits(self, x: Self::F) -> Self::I;
    fn of_bits(self, x: Self::I) -> Self::F;

    fn splat_int(self, x: i32) -> Self::I;
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn mul_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Twenty-three bits up: an integer to the exponent of an f32.
    fn exponent(self, x: Self::I) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;
    /// The low bytes.
    fn narrow(self, x: Self::I) -> [u8; LANES];
    fn unsigned(self, x: &[u8; LANES]) -> Self::I;
    fn signed(self, x: &[u8; LANES]) -> Self::I;

    fn bytes(self, x: &[u8; 64]) -> Self::B;
    /// Says that the line of memory with the beginning of this will be wanted soon.
    fn prefetch<T>(self, x: &T);
    /// The low four bits of each byte.
    fn low_nibbles(self, x: Self::B) -> Self::B;
    /// The high four bits of each byte.
    fn high_nibbles(self, x: Self::B) -> Self::B;
    /// Bits `2 * pair` and the next of each byte, as bits 4 and 5.
    fn bit_pair(self, x: Self::B, pair: usize) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Adds to each lane the products of its four bytes of `a`, unsigned, with the
    /// four bytes of `b`, signed and not -128.
    fn dot(self, sum: Self::I, a: Self::B, b: i32) -> Self::I;
    /// As [`Self::dot`], where all of `a` are below 64.
    fn dot_small(self, sum: Self::I, a: Self::B, b: i32) -> Self::I {
        self.dot(sum, a, b)
    }
}

/// Work that is written over [`Level`].
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, with all that it calls: only what becomes part
    /// of it is compiled for the level.
    fn run<L: Level>(self, level: L) -> Self::Output;
}

/// Which level a kernel is run at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cpu(Found);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Cpu {
    /// The best that this processor can do.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Self(Found::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                return Self(Found::Avx2);
            }
        }
        Self(Found::Portable)
    }

    /// All that this processor can do, the least first.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        if Self::detect().0 == Found::Avx512 {
            all.push(Self(Found::Avx2));
        }
        all.push(Self::detect());
        all
    }

    #[cfg(test)]
    pub(crate) const PORTABLE: Self = Self(Found::Portable);

    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Found::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Found::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Found::Avx512 => "avx512",
        }
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Found::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `detect` has found these features, or better ones.
            Found::Avx2 => unsafe { x86::with_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Found::Avx512 => unsafe { x86::with_avx512(kernel) },
        }
    }
}

/// No instructions but those that every processor has.
#[derive(Clone, Copy)]
struct Portable;

impl Portable {
    #[inline(always)]
    fn zip<T: Copy, U: Copy, R: Copy + Default>(
        a: [T; LANES],
        b: [U; LANES],
        f: impl Fn(T, U) -> R,
    ) -> [R; LANES] {
        let mut result = [R::default(); LANES];
        for i in 0..LANES {
            result[i] = f(a[i], b[i]);
        }
        result
    }
}

impl Level for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        Self::zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn halves(self, x: &[u16; LANES]) -> Self::F {
        x.map(from_half)
    }
    #[inline(always)]
    fn to_halves(self, x: Self::F) -> [u16; LANES] {
        x.map(to_half)
    }
    #[inline(always)]
    fn upper_halves(self, x: &[u16; LANES]) -> Self::F {
        x.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    fn bits(self, x: Self::F) -> Self::I {
        x.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn of_bits(self, x: Self::I) -> Self::F {
        x.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
        Self::zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I {
        Self::zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn mul_int(self, a: Self::I, b: Self::I) -> Self::I {
        Self::zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn exponent(self, x: Self::I) -> Self::I {
        x.map(|x| x << 23)
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn narrow(self, x: Self::I) -> [u8; LANES] {
        x.map(|x| x as u8)
    }
    #[inline(always)]
    fn unsigned(self, x: &[u8; LANES]) -> Self::I {
        x.map(i32::from)
    }
    #[inline(always)]
    fn signed(self, x: &[u8; LANES]) -> Self::I {
        x.map(|x| i32::from(x as i8))
    }
    #[inline(always)]
    fn bytes(self, x: &[u8; 64]) -> Self::B {
        *x
    }
    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}
    #[inline(always)]
    fn low_nibbles(self, x: Self::B) -> Self::B {
        x.map(|x| x & 0x0f)
    }
    #[inline(always)]
    fn high_nibbles(self, x: Self::B) -> Self::B {
        x.map(|x| x >> 4)
    }
    #[inline(always)]
    fn bit_pair(self, x: Self::B, pair: usize) -> Self::B {
        x.map(|x| ((x >> (2 * pair)) & 3) << 4)
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        let mut result = a;
        for (result, b) in result.iter_mut().zip(b) {
            *result |= b;
        }
        result
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, a: Self::B, b: i32) -> Self::I {
        let b = b.to_le_bytes().map(|b| i32::from(b as i8));
        let mut result = sum;
        for lane in 0..LANES {
            for (place, b) in b.iter().enumerate() {
                result[lane] += i32::from(a[lane * 4 + place]) * b;
            }
        }
        result
    }
}

/// An IEEE 754 half.
pub(crate) fn from_half(x: u16) -> f32 {
    let sign = u32::from(x & 0x8000) << 16;
    let rest = u32::from(x & 0x7fff) << 13;
    let magnitude = match rest >= 0x7c00 << 13 {
        // Infinity, or not a number, which an instruction makes quiet.
        true if rest > 0x7c00 << 13 => rest | 0x7fc0_0000,
        true => 0x7f80_0000,
        // The exponent's bias differs by 112; this is right for subnormals too.
        false => (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits(),
    };
    f32::from_bits(magnitude | sign)
}

/// To an IEEE 754 half, to the nearest, ties to even.
pub(crate) fn to_half(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let bits = x.to_bits() & 0x7fff_ffff;
    let magnitude = if bits > 0x7f80_0000 {
        0x7e00 | ((bits >> 13) & 0x3ff) as u16
    } else if bits >= 0x4780_0000 {
        0x7c00
    } else if bits < 0x3880_0000 {
        // Subnormal: the addition puts the last bit at the unit, and rounds.
        (f32::from_bits(bits) + 0.5)
            .to_bits()
            .wrapping_sub(0x3f00_0000) as u16
    } else {
        let odd = (bits >> 13) & 1;
        ((bits - 0x3800_0000 + 0xfff + odd) >> 13) as u16
    };
    sign | magnitude
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! # Safety
    //!
    //! The intrinsics ask for features only. A value of [`Avx2`] or [`Avx512`] is
    //! made by the two functions at the top alone, whose callers have found them.
    //! Pointers come from references to arrays of just the size that is accessed,
    //! by instructions that need no alignment.

    #![expect(
        clippy::undocumented_unsafe_blocks,
        reason = "one argument for all of them, above"
    )]

    use core::arch::x86_64::*;

    use super::{Kernel, LANES, Level};

    /// Needs the features.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }

    /// Needs the features.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }

    #[derive(Clone, Copy)]
    struct Avx2(());

    #[derive(Clone, Copy)]
    struct Avx512(());

    /// Both halves of sixteen lanes.
    #[inline(always)]
    fn both<T: Copy, U: Copy, R>(a: [T; 2], b: [U; 2], f: impl Fn(T, U) -> R) -> [R; 2] {
        [f(a[0], b[0]), f(a[1], b[1])]
    }

    impl Level for Avx2 {
        type F = [__m256; 2];
        type I = [__m256i; 2];
        type B = [__m256i; 2];

        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::F {
            let [a, b] = halved::<_, LANES, 8>(x);
            unsafe { [_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())] }
        }
        #[inline(always)]
        fn store(self, x: Self::F, to: &mut [f32; LANES]) {
            let mut halves = [[0.0_f32; 8]; 2];
            unsafe {
                _mm256_storeu_ps(halves[0].as_mut_ptr(), x[0]);
                _mm256_storeu_ps(halves[1].as_mut_ptr(), x[1]);
            }
            to.copy_from_slice(halves.as_flattened());
        }
        #[inline(always)]
        fn add(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_add_ps(a, b) })
        }
        #[inline(always)]
        fn sub(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_sub_ps(a, b) })
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_mul_ps(a, b) })
        }
        #[inline(always)]
        fn div(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_div_ps(a, b) })
        }
        #[inline(always)]
        fn max(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_max_ps(a, b) })
        }
        #[inline(always)]
        fn min(self, a: Self::F, b: Self::F) -> Self::F {
            both(a, b, |a, b| unsafe { _mm256_min_ps(a, b) })
        }
        #[inline(always)]
        fn halves(self, x: &[u16; LANES]) -> Self::F {
            halved::<_, LANES, 8>(x)
                .map(|x| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) })
        }
        #[inline(always)]
        fn to_halves(self, x: Self::F) -> [u16; LANES] {
            let mut halves = [[0_u16; 8]; 2];
            for (x, to) in x.into_iter().zip(&mut halves) {
                unsafe {
                    let x = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                    _mm_storeu_si128(to.as_mut_ptr().cast(), x);
                }
            }
            let mut result = [0; LANES];
            result.copy_from_slice(halves.as_flattened());
            result
        }
        #[inline(always)]
        fn upper_halves(self, x: &[u16; LANES]) -> Self::F {
            halved::<_, LANES, 8>(x).map(|x| unsafe {
                let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
            })
        }
        #[inline(always)]
        fn bits(self, x: Self::F) -> Self::I {
            x.map(|x| unsafe { _mm256_castps_si256(x) })
        }
        #[inline(always)]
        fn of_bits(self, x: Self::I) -> Self::F {
            x.map(|x| unsafe { _mm256_castsi256_ps(x) })
        }
        #[inline(always)]
        fn splat_int(self, x: i32) -> Self::I {
            unsafe { [_mm256_set1_epi32(x); 2] }
        }
        #[inline(always)]
        fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
            both(a, b, |a, b| unsafe { _mm256_add_epi32(a, b) })
        }
        #[inline(always)]
        fn sub_int(self, a: Self::I, b: Self::I) -> Self::I {
            both(a, b, |a, b| unsafe { _mm256_sub_epi32(a, b) })
        }
        #[inline(always)]
        fn mul_int(self, a: Self::I, b: Self::I) -> Self::I {
            both(a, b, |a, b| unsafe { _mm256_mullo_epi32(a, b) })
        }
        #[inline(always)]
        fn exponent(self, x: Self::I) -> Self::I {
            x.map(|x| unsafe { _mm256_slli_epi32::<23>(x) })
        }
        #[inline(always)]
        fn to_float(self, x: Self::I) -> Self::F {
            x.map(|x| unsafe { _mm256_cvtepi32_ps(x) })
        }
        #[inline(always)]
        fn narrow(self, x: Self::I) -> [u8; LANES] {
            let mut lanes = [[0_u32; 8]; 2];
            for (x, to) in x.into_iter().zip(&mut lanes) {
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) };
            }
            let mut result = [0; LANES];
            for (to, x) in result.iter_mut().zip(lanes.as_flattened()) {
                [*to, ..] = x.to_le_bytes();
            }
            result
        }
        #[inline(always)]
        fn unsigned(self, x: &[u8; LANES]) -> Self::I {
            halved::<_, LANES, 8>(x)
                .map(|x| unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().cast())) })
        }
        #[inline(always)]
        fn signed(self, x: &[u8; LANES]) -> Self::I {
            halved::<_, LANES, 8>(x)
                .map(|x| unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast())) })
        }
        #[inline(always)]
        fn bytes(self, x: &[u8; 64]) -> Self::B {
            let [a, b] = halved::<_, 64, 32>(x);
            unsafe {
                [
                    _mm256_loadu_si256(a.as_ptr().cast()),
                    _mm256_loadu_si256(b.as_ptr().cast()),
                ]
            }
        }
        #[inline(always)]
        fn prefetch<T>(self, x: &T) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>((&raw const *x).cast()) }
        }
        #[inline(always)]
        fn low_nibbles(self, x: Self::B) -> Self::B {
            x.map(|x| unsafe { _mm256_and_si256(x, _mm256_set1_epi8(0x0f)) })
        }
        #[inline(always)]
        fn high_nibbles(self, x: Self::B) -> Self::B {
            self.low_nibbles(x.map(|x| unsafe { _mm256_srli_epi16::<4>(x) }))
        }
        #[inline(always)]
        fn bit_pair(self, x: Self::B, pair: usize) -> Self::B {
            x.map(|x| unsafe {
                let x = match pair {
                    0 => _mm256_slli_epi16::<4>(x),
                    1 => _mm256_slli_epi16::<2>(x),
                    2 => x,
                    _ => _mm256_srli_epi16::<2>(x),
                };
                _mm256_and_si256(x, _mm256_set1_epi8(0x30))
            })
        }
        #[inline(always)]
        fn or(self, a: Self::B, b: Self::B) -> Self::B {
            both(a, b, |a, b| unsafe { _mm256_or_si256(a, b) })
        }
        #[inline(always)]
        fn dot(self, sum: Self::I, a: Self::B, b: i32) -> Self::I {
            // Pairs of products must fit i16: the highest bit is multiplied apart.
            let high = a.map(|a| unsafe { _mm256_and_si256(a, _mm256_set1_epi8(-128)) });
            let low = a.map(|a| unsafe { _mm256_and_si256(a, _mm256_set1_epi8(127)) });
            self.dot_small(self.dot_small(sum, high, b), low, b)
        }
        #[inline(always)]
        fn dot_small(self, sum: Self::I, a: Self::B, b: i32) -> Self::I {
            both(sum, a, |sum, a| unsafe {
                let pairs = _mm256_maddubs_epi16(a, _mm256_set1_epi32(b));
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }
    }

    impl Level for Avx512 {
        type F = __m512;
        type I = __m512i;
        type B = __m512i;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::F {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: Self::F, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn add(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        fn max(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: Self::F, b: Self::F) -> Self::F {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        fn halves(self, x: &[u16; LANES]) -> Self::F {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn to_halves(self, x: Self::F) -> [u16; LANES] {
            let mut result = [0; LANES];
            unsafe {
                let x = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                _mm256_storeu_si256(result.as_mut_ptr().cast(), x);
            }
            result
        }
        #[inline(always)]
        fn upper_halves(self, x: &[u16; LANES]) -> Self::F {
            unsafe {
                let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
            }
        }
        #[inline(always)]
        fn bits(self, x: Self::F) -> Self::I {
            unsafe { _mm512_castps_si512(x) }
        }
        #[inline(always)]
        fn of_bits(self, x: Self::I) -> Self::F {
            unsafe { _mm512_castsi512_ps(x) }
        }
        #[inline(always)]
        fn splat_int(self, x: i32) -> Self::I {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        fn add_int(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        fn sub_int(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_sub_epi32(a, b) }
        }
        #[inline(always)]
        fn mul_int(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_mullo_epi32(a, b) }
        }
        #[inline(always)]
        fn exponent(self, x: Self::I) -> Self::I {
            unsafe { _mm512_slli_epi32::<23>(x) }
        }
        #[inline(always)]
        fn to_float(self, x: Self::I) -> Self::F {
            unsafe { _mm512_cvtepi32_ps(x) }
        }
        #[inline(always)]
        fn narrow(self, x: Self::I) -> [u8; LANES] {
            let mut result = [0; LANES];
            unsafe { _mm_storeu_si128(result.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) };
            result
        }
        #[inline(always)]
        fn unsigned(self, x: &[u8; LANES]) -> Self::I {
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn signed(self, x: &[u8; LANES]) -> Self::I {
            unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
        }
        #[inline(always)]
        fn bytes(self, x: &[u8; 64]) -> Self::B {
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }
        #[inline(always)]
        fn prefetch<T>(self, x: &T) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>((&raw const *x).cast()) }
        }
        #[inline(always)]
        fn low_nibbles(self, x: Self::B) -> Self::B {
            unsafe { _mm512_and_si512(x, _mm512_set1_epi8(0x0f)) }
        }
        #[inline(always)]
        fn high_nibbles(self, x: Self::B) -> Self::B {
            unsafe { self.low_nibbles(_mm512_srli_epi16::<4>(x)) }
        }
        #[inline(always)]
        fn bit_pair(self, x: Self::B, pair: usize) -> Self::B {
            unsafe {
                let x = match pair {
                    0 => _mm512_slli_epi16::<4>(x),
                    1 => _mm512_slli_epi16::<2>(x),
                    2 => x,
                    _ => _mm512_srli_epi16::<2>(x),
                };
                _mm512_and_si512(x, _mm512_set1_epi8(0x30))
            }
        }
        #[inline(always)]
        fn or(self, a: Self::B, b: Self::B) -> Self::B {
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        fn dot(self, sum: Self::I, a: Self::B, b: i32) -> Self::I {
            unsafe { _mm512_dpbusd_epi32(sum, a, _mm512_set1_epi32(b)) }
        }
    }

    /// The two halves of an array.
    #[inline(always)]
    fn halved<T, const N: usize, const M: usize>(x: &[T; N]) -> [&[T; M]; 2] {
        const { assert!(M * 2 == N) };
        let (halves, _) = x.as_chunks::<M>();
        [&halves[0], &halves[1]]
    }
}
