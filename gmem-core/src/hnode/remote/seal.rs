//! What is stored with a page, so that nothing that comes back is taken for a page that it is not.
//!
//! A seal binds a page's bytes to its number and version; the version stays here, so an old page that is served again has the
//! wrong one. With a cipher (AES-256-GCM, NIST SP 800-38D) the bytes are unreadable elsewhere too: the key is made for this tier and never leaves it, and since each
//! version is used once, so is each nonce.

use pager_wire::Page;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zerocopy::IntoBytes;

/// How pages are sealed.
pub(super) enum Sealer {
    /// A checksum, bound by a secret: against mistakes, of those who are trusted.
    Sum {
        /// Known to nobody else.
        secret: u64,
    },
    /// Encrypted and authenticated: against everybody.
    Cipher {
        key: Box<LessSafeKey>,
        /// Which microVM's tier this is.
        tier: [u8; 16],
    },
}

impl Sealer {
    pub(super) fn new(encrypted: bool) -> std::io::Result<Self> {
        let failed = |error: getrandom::Error| std::io::Error::other(error.to_string());
        if !encrypted {
            let secret = getrandom::u64().map_err(failed)?;
            return Ok(Self::Sum { secret });
        }
        let (mut key, mut tier) = ([0; 32], [0; 16]);
        getrandom::fill(&mut key).map_err(failed)?;
        getrandom::fill(&mut tier).map_err(failed)?;
        let key = UnboundKey::new(&AES_256_GCM, &key)
            .map_err(|_| std::io::Error::other("the cipher takes no key of 32 bytes"))?;
        Ok(Self::Cipher {
            key: Box::new(LessSafeKey::new(key)),
            tier,
        })
    }

    /// Seals a page's bytes, in place.
    pub(super) fn seal(&self, number: u64, version: u64, bytes: &mut [u8]) -> Page {
        let mut page = Page {
            number: number.into(),
            version: version.into(),
            seal: [0; 16],
        };
        match self {
            Self::Sum { secret } => {
                let sum = xxh3_64(bytes);
                page.seal[..8].copy_from_slice(&sum.to_le_bytes());
                let bound = bound(*secret, sum, &page);
                page.seal[8..].copy_from_slice(&bound.to_le_bytes());
            }
            Self::Cipher { key, tier } => {
                let sealed =
                    key.seal_in_place_separate_tag(nonce(version), about(tier, &page), bytes);
                // It fails for more than 64 GiB at once.
                page.seal
                    .copy_from_slice(sealed.expect("a page is short").as_ref());
            }
        }
        page
    }

    /// Opens what came back, in place: false if it is not what was sealed as this page and version.
    pub(super) fn open(&self, number: u64, version: u64, found: &Page, bytes: &mut [u8]) -> bool {
        if found.number.get() != number || found.version.get() != version {
            return false;
        }
        match self {
            Self::Sum { secret } => {
                let sum = xxh3_64(bytes);
                found.seal[..8] == sum.to_le_bytes()
                    && found.seal[8..] == bound(*secret, sum, found).to_le_bytes()
            }
            Self::Cipher { key, tier } => key
                .open_in_place_separate_tag(
                    nonce(version),
                    about(tier, found),
                    found.seal.into(),
                    bytes,
                    0..,
                )
                .is_ok(),
        }
    }
}

fn bound(secret: u64, sum: u64, page: &Page) -> u64 {
    let words = [sum, page.number.get(), page.version.get()];
    xxh3_64_with_seed(words.as_bytes(), secret)
}

fn nonce(version: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// What is authenticated beside the bytes: whose page, which, and which version.
fn about(tier: &[u8; 16], page: &Page) -> Aad<[u8; 32]> {
    let mut about = [0; 32];
    about[..16].copy_from_slice(tier);
    about[16..24].copy_from_slice(page.number.as_bytes());
    about[24..].copy_from_slice(page.version.as_bytes());
    Aad::from(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_page_of_the_same_version_opens() {
        for encrypted in [false, true] {
            let sealer = Sealer::new(encrypted).unwrap();
            let plain: Vec<u8> = (0..4096_u32).map(|i| (i * 7 % 251) as u8).collect();
            let mut sealed = plain.clone();
            let page = sealer.seal(5, 9, &mut sealed);
            assert_eq!(sealed != plain, encrypted);
            let opens = |number, version, page: Page, mut bytes: Vec<u8>| {
                sealer.open(number, version, &page, &mut bytes) && bytes == plain
            };
            assert!(opens(5, 9, page, sealed.clone()));
            assert!(!opens(6, 9, page, sealed.clone()), "another page");
            assert!(!opens(5, 10, page, sealed.clone()), "an old version");
            // What lies about what it is.
            let named = |number: u64, version: u64| Page {
                number: number.into(),
                version: version.into(),
                ..page
            };
            assert!(!opens(6, 9, named(6, 9), sealed.clone()));
            assert!(!opens(5, 10, named(5, 10), sealed.clone()));
            let mut damaged = sealed.clone();
            damaged[4095] ^= 1;
            assert!(!opens(5, 9, page, damaged));
            let other = Sealer::new(encrypted).unwrap();
            assert!(
                !other.open(5, 9, &page, &mut sealed.clone()),
                "another tier's"
            );
        }
    }
}
