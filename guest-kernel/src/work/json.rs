//! One JSON object on one line, written as it is made: nothing here allocates.

use core::fmt::{self, Write};

/// An object under construction. Errors of the writer come out of [`Object::end`].
pub(super) struct Object<'a> {
    out: &'a mut dyn Write,
    result: fmt::Result,
    first: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut dyn Write) -> Self {
        let result = out.write_char('{');
        Self {
            out,
            result,
            first: true,
        }
    }

    fn member(&mut self, key: &str, value: fmt::Arguments<'_>) {
        let comma = if self.first { "" } else { "," };
        self.first = false;
        let written = self.out.write_fmt(format_args!("{comma}\"{key}\":{value}"));
        self.result = self.result.and(written);
    }

    /// `value` must need no escapes; all texts here are names.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.member(key, format_args!("\"{value}\""));
    }

    pub(super) fn integer(&mut self, key: &str, value: u64) {
        self.member(key, format_args!("{value}"));
    }

    pub(super) fn hexadecimal(&mut self, key: &str, value: u64) {
        self.member(key, format_args!("\"{value:#x}\""));
    }

    pub(super) fn truth(&mut self, key: &str, value: bool) {
        self.member(key, format_args!("{value}"));
    }

    /// A number with `digits` decimals; JSON has no infinity and no NaN: they become null.
    pub(super) fn decimal(&mut self, key: &str, value: f64, digits: usize) {
        if value.is_finite() {
            self.member(key, format_args!("{value:.digits$}"));
        } else {
            self.member(key, format_args!("null"));
        }
    }

    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) {
        self.member(key, format_args!(""));
        let mut inner = Object::begin(self.out);
        fill(&mut inner);
        let written = inner.end();
        self.result = self.result.and(written);
    }

    pub(super) fn end(self) -> fmt::Result {
        self.result.and_then(|()| self.out.write_char('}'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn what_is_written_parses_as_json() {
        let mut line = String::new();
        let mut object = Object::begin(&mut line);
        object.text("name", "verify");
        object.integer("big", u64::MAX);
        object.decimal("half", 0.5, 3);
        object.decimal("nothing", f64::NAN, 3);
        object.truth("yes", true);
        object.object("inner", |inner| inner.hexadecimal("at", 0x1000));
        object.object("empty", |_| {});
        object.end().unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["big"], u64::MAX);
        assert_eq!(value["half"], 0.5);
        assert!(value["nothing"].is_null());
        assert_eq!(value["inner"]["at"], "0x1000");
        assert_eq!(value["empty"], serde_json::json!({}));
        assert!(line.starts_with("{\"name\":\"verify\",") && !line.contains('\n'));
    }
}
