//! verdict: what a verifier says of a signature.

/// How far a mirror's clock may be ahead of ours, in seconds.
pub const AHEAD: i64 = 3600;

/// One signature, as a verifier sees it. The text is the id of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad(String),
    Unknown(String),
    Expired(String),
    Revoked(String),
    /// By a digest that can be forged, which is named.
    Weak(String, &'static str),
}
