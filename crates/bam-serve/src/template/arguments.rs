//! Arguments of filters and methods, which come by their places or by their names.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};

/// The widest that a text is filled up to.
pub const WIDEST: usize = 1 << 16;

pub fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The arguments of these names, where they are given.
///
/// # Errors
/// If there are more, or others.
pub fn arguments<const N: usize>(
    of: &str,
    given: &[Value],
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    let (places, named): (&[Value], Kwargs) = from_args(given)?;
    if places.len() > N {
        let got = places.len();
        return Err(wrong(format!(
            "{of}: expected up to {N} arguments, got {got}"
        )));
    }
    let mut found = names.map(|_| None);
    for ((at, name), found) in names.iter().enumerate().zip(&mut found) {
        let by_name: Option<Value> = match named.has(name) {
            true => Some(named.get(name)?),
            false => None,
        };
        *found = places.get(at).cloned().or(by_name);
    }
    named.assert_all_used()?;
    Ok(found)
}

/// An argument that says something.
pub fn said(argument: Option<Value>) -> Option<Value> {
    argument.filter(|argument| !argument.is_none())
}

/// An argument that is true.
pub fn truly(argument: Option<Value>) -> bool {
    argument.is_some_and(|argument| argument.is_true())
}

/// A whole number, or a boolean as one.
pub fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}
