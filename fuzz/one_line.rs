//! What every refusal must be.

/// What was read or planned; a refusal is looked at, and is none.
///
/// # Panics
/// If a refusal is not one line of a length that a person reads.
pub fn checked<T>(answer: sys::Result<T>) -> Option<T> {
    let refusal = match answer {
        Ok(value) => return Some(value),
        Err(error) => error.to_string(),
    };
    assert!(refusal.starts_with("cannot "), "{refusal}");
    assert!(!refusal.contains(char::is_control) && refusal.chars().count() < 1500, "{refusal}");
    None
}
