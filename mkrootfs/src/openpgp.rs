//! openpgp: who has signed, without another program (feature rpgp): the crate computes, what counts is decided
//! here, as gpgv would (RFC 9580, sections 5.2.3 and 10.1).
//!
//! The keyring is trusted as it lies there. What its owner's own signatures in it say is used to find out which
//! keys may sign, until when, and which were revoked.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use crate::verdict::{AHEAD, Verdict};

const END: &str = "-----END PGP SIGNATURE-----";

/// A key that may have signed: a certificate's first, or one below it.
struct Signer<'a> {
    certificate: &'a SignedPublicKey,
    below: Option<&'a SignedPublicSubKey>,
}

/// What is known of a key by its owner's newest signature on it.
#[derive(PartialEq, Eq)]
enum Standing {
    Good,
    Expired,
    Revoked,
    /// It is not for signing, or nothing says that it belongs to the certificate.
    Unfit,
}

/// A verdict on each signature that is understood.
pub fn verdicts(keyrings: &[PathBuf], message: &[u8], signature: &[u8]) -> Result<Vec<Verdict>> {
    let mut certificates = Vec::new();
    for keyring in keyrings {
        let bytes =
            fs::read(keyring).with_context(|| format!("cannot read the keyring '{}'", keyring.display()))?;
        let keys = SignedPublicKey::from_reader_many(&bytes[..])
            .map_err(|e| anyhow!("cannot use the keyring '{}': {e}", keyring.display()))?;
        // A kind of key that the crate does not know does no harm to those that it knows.
        certificates.extend(keys.0.filter_map(std::result::Result::ok));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let signatures = signatures(signature).map_err(|e| anyhow!("the signature is damaged: {e}"))?;
    Ok(signatures.iter().filter_map(|signature| verdict(signature, &certificates, message, now)).collect())
}

/// Those of one armored block, or of several one after the other.
fn signatures(bytes: &[u8]) -> pgp::errors::Result<Vec<Signature>> {
    let mut all = Vec::new();
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains(END)) else {
        for signature in DetachedSignature::from_bytes_many(bytes)? {
            all.push(signature?.signature);
        }
        return Ok(all);
    };
    for block in text.split_inclusive(END).filter(|block| block.ends_with(END)) {
        for signature in DetachedSignature::from_armor_many(block.as_bytes())?.0 {
            all.push(signature?.signature);
        }
    }
    Ok(all)
}

/// None for a signature that says nothing: of another kind, past its own date, or with conditions that are not known.
fn verdict(
    signature: &Signature,
    certificates: &[SignedPublicKey],
    message: &[u8],
    now: i64,
) -> Option<Verdict> {
    let config = signature.config()?;
    if !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
        return None;
    }
    let named = config.issuer_fingerprint().first().map(|print| hex(print.as_bytes()));
    let named = named.or_else(|| config.issuer_key_id().first().map(|id| hex(id.as_ref())))?;
    let id = named[named.len().saturating_sub(16)..].to_owned();
    let Some(signer) = signer(certificates, signature) else { return Some(Verdict::Unknown(id)) };
    match config.hash_alg {
        HashAlgorithm::Md5 => return Some(Verdict::Weak(id, "MD5")),
        HashAlgorithm::Sha1 => return Some(Verdict::Weak(id, "SHA1")),
        HashAlgorithm::Ripemd160 => return Some(Verdict::Weak(id, "RIPEMD160")),
        _ => {}
    }
    let verified = match signer.below {
        Some(key) => signature.verify(&key.key, message),
        None => signature.verify(&signer.certificate.primary_key, message),
    };
    if verified.is_err() {
        return Some(Verdict::Bad(id));
    }
    let made = signature.created()?.as_secs();
    let end = signature.signature_expiration_time().map_or(0, |time| time.as_secs());
    let of_its_time = signer.made() <= made && i64::from(made) <= now + AHEAD && !is_past(made, end, now);
    if !of_its_time || has_unknown_conditions(signature) {
        return None;
    }
    match signer.standing(now) {
        Standing::Good => Some(Verdict::Good),
        Standing::Expired => Some(Verdict::Expired(id)),
        Standing::Revoked => Some(Verdict::Revoked(id)),
        Standing::Unfit => None,
    }
}

/// What is marked as critical must be understood (section 5.2.3.7).
fn has_unknown_conditions(signature: &Signature) -> bool {
    let unknown =
        |data: &SubpacketData| matches!(data, SubpacketData::Other(..) | SubpacketData::Experimental(..));
    let parts = signature.config().map_or(&[][..], |it| &it.hashed_subpackets);
    parts.iter().any(|it| it.is_critical && unknown(&it.data))
}

/// A time of no length has no end.
fn is_past(from: u32, length: u32, now: i64) -> bool {
    length != 0 && i64::from(from) + i64::from(length) <= now
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn signer<'a>(certificates: &'a [SignedPublicKey], signature: &Signature) -> Option<Signer<'a>> {
    let (prints, ids) = (signature.issuer_fingerprint(), signature.issuer_key_id());
    let is = |key: &dyn Named| match prints.first() {
        Some(print) => key.print() == hex(print.as_bytes()),
        None => ids.iter().any(|id| key.print().ends_with(&hex(id.as_ref()))),
    };
    certificates.iter().find_map(|certificate| {
        if is(&certificate.primary_key) {
            return Some(Signer { certificate, below: None });
        }
        let below = certificate.public_subkeys.iter().find(|key| is(&key.key))?;
        Some(Signer { certificate, below: Some(below) })
    })
}

/// A key by its fingerprint, in hex.
trait Named {
    fn print(&self) -> String;
}

impl<K: KeyDetails> Named for K {
    fn print(&self) -> String {
        hex(self.fingerprint().as_bytes())
    }
}

impl Signer<'_> {
    fn made(&self) -> u32 {
        self.below.map_or(self.certificate.primary_key.created_at(), |key| key.key.created_at()).as_secs()
    }

    fn standing(&self, now: i64) -> Standing {
        let first = standing_of_first(self.certificate, self.below.is_none(), now);
        match (&first, self.below) {
            (Standing::Revoked | Standing::Unfit, _) | (_, None) => first,
            (_, Some(key)) => match standing_of_below(self.certificate, key, now) {
                Standing::Good => first,
                other => other,
            },
        }
    }
}

/// What the owner says of the certificate as a whole, and of its first key if it is the one that has signed.
fn standing_of_first(certificate: &SignedPublicKey, signs: bool, now: i64) -> Standing {
    let (key, details) = (&certificate.primary_key, &certificate.details);
    if details.revocation_signatures.iter().any(|it| it.verify_key(key).is_ok()) {
        return Standing::Revoked;
    }
    let on_key = details.direct_signatures.iter().filter(|it| it.verify_key(key).is_ok());
    let on_names = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(move |it| {
            it.is_certification() && it.verify_certification(key, Tag::UserId, &user.id).is_ok()
        })
    });
    let (on_key, on_names) = (newest(on_key), newest(on_names));
    // What is said of the key itself comes before what is said of its owner's name.
    let end = [on_key, on_names].into_iter().flatten().find_map(Signature::key_expiration_time);
    match (on_key.or(on_names), on_names.or(on_key)) {
        (Some(_), Some(flags)) if !signs || may_sign(flags) => {
            let past = end.is_some_and(|end| is_past(key.created_at().as_secs(), end.as_secs(), now));
            if past { Standing::Expired } else { Standing::Good }
        }
        _ => Standing::Unfit,
    }
}

/// A key that signs has itself agreed to belong to the certificate (section 5.2.1.9).
fn standing_of_below(certificate: &SignedPublicKey, below: &SignedPublicSubKey, now: i64) -> Standing {
    let (first, key) = (&certificate.primary_key, &below.key);
    let valid = || below.signatures.iter().filter(|it| it.verify_subkey_binding(first, key).is_ok());
    let of = |kind: SignatureType| valid().filter(move |it| it.typ() == Some(kind));
    if of(SignatureType::SubkeyRevocation).next().is_some() {
        return Standing::Revoked;
    }
    let agreed = |binding: &Signature| {
        let back = binding.embedded_signature();
        back.is_some_and(|back| back.verify_primary_key_binding(key, first).is_ok())
    };
    let Some(binding) = newest(of(SignatureType::SubkeyBinding)) else { return Standing::Unfit };
    let end = binding.key_expiration_time();
    match end.is_some_and(|end| is_past(key.created_at().as_secs(), end.as_secs(), now)) {
        _ if !may_sign(binding) || !agreed(binding) => Standing::Unfit,
        true => Standing::Expired,
        false => Standing::Good,
    }
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|it| it.created().map(|time| time.as_secs()))
}

/// Where nothing is said of what a key is for, its algorithm decides.
fn may_sign(signature: &Signature) -> bool {
    let flags = |data: &SubpacketData| matches!(data, SubpacketData::KeyFlags(_));
    let said = signature.config().is_some_and(|it| it.hashed_subpackets.iter().any(|one| flags(&one.data)));
    !said || signature.key_flags().sign()
}
