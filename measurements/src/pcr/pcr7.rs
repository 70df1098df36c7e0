//! PCR 7: the Secure Boot policy, of which ours has none.
//!
//! The kernel is pinned by PCR 4, so that no key decides what may boot.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::variable;

/// Extends the policy variables and their separator.
pub fn extend(bank: &mut Bank) {
    // Tcg2Dxe.c, MeasureSecureBootPolicy().
    for (name, digests) in variable::secure_boot() {
        bank.extend(PCR7, digests, name, Source::Constant);
    }
    bank.extend(PCR7, Digests::of(&[0; 4]), "separator", Source::Constant);
}

const PCR7: Register = Register::Pcr(7);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// Read in a guest with the same empty variable store.
    #[test]
    fn it_is_the_value_of_a_boot_without_keys() {
        let mut bank = Bank::default();
        extend(&mut bank);
        assert_eq!(
            bank.pcr(7).to_string(),
            "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439",
        );
    }
}
