//! report.html: a run as one page that needs nothing else, no network and no other file.
//!
//! [`page`] reads the folder of a run and gives the text of the page. Everything that comes from files
//! is escaped; the same folder gives the same bytes.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ndarray::Array2;
use num_complex::Complex32;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Result;

mod figures;
mod object;
mod plot;
mod read;
mod result;
mod tables;
mod training;
mod viewer;

pub use read::{Before, Folder};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page of the run in `folder`. `before` is another reconstruction to hold its result against.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) and [`Error::Io`](crate::Error::Io) where the folder is not
/// that of a run, or a file of it is damaged.
pub fn page(folder: &Path, before: Option<Before>) -> Result<String> {
    let folder = Folder::read(folder, before)?;
    let mut sections = Sections::default();
    let record = &folder.record;
    tables::head(&mut sections, &folder);
    if let Some(result) = &folder.result {
        result::sections(&mut sections, record, result);
    }
    training::sections(&mut sections, &folder);
    tables::sections(&mut sections, &folder);
    let title = format!("{} · {}", folder.name(), folder.command());
    Ok(sections.finish(&title))
}

/// A page that grows from top to bottom.
#[derive(Default)]
pub(crate) struct Sections {
    /// What is above the first section.
    pub head: String,
    body: String,
    /// (id, title) of the sections.
    links: Vec<(String, String)>,
    pub arrays: viewer::Arrays,
}

impl Sections {
    /// Adds a section; `html` is markup already.
    pub fn add(&mut self, id: &str, title: &str, html: &str) {
        let name = escape(title);
        self.body.push_str(&format!(
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{name}</h2>\n\
             {html}\n</section>\n"
        ));
        self.links.push((id.into(), title.into()));
    }

    fn finish(self, title: &str) -> String {
        let link =
            |(id, title): &(String, String)| format!("<a href=\"#{id}\">{}</a>", escape(title));
        let links: Vec<String> = self.links.iter().map(link).collect();
        let body = format!(
            "{}<nav aria-label=\"Sections\">{}</nav>\n<main id=\"main\">\n{}</main>\n",
            self.head,
            links.join(""),
            self.body
        );
        shell(title, &body, &self.arrays.into_json(), SCRIPT, &ALONE)
    }
}

/// What a page may ask for beyond itself, and what it says of that.
struct Reach {
    /// Further directives of its policy.
    policy: &'static str,
    foot: &'static str,
}

const ALONE: Reach = Reach {
    policy: "img-src data:",
    foot: "The page holds everything that it shows, and asks no network for anything.",
};

const LIVE: Reach = Reach {
    policy: "img-src data: 'self'; connect-src 'self'",
    foot: "The page talks to the run on this machine and to nothing else.",
};

/// A page that hears of a run from the address that it came from.
pub(crate) fn live_shell(title: &str, body: &str, data: &Value, script: &str) -> String {
    shell(title, body, data, script, &LIVE)
}

/// A whole page: head, body, data and script. The policy forbids everything but what is inside, and
/// what is within reach.
fn shell(title: &str, body: &str, data: &Value, script: &str, reach: &Reach) -> String {
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; {}; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(script),
        reach.policy
    );
    let values = [
        ("policy", policy.as_str()),
        ("title", &escape(title)),
        ("style", STYLE),
        ("body", body),
        ("data", &in_script(data)),
        ("script", script),
        ("foot", reach.foot),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    fill(PAGE, &values)
}

/// JSON that cannot end the script element that it stands in.
fn in_script(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

/// The source expression of a policy for an inline text.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

/// Puts values in the place of `{{name}}`, in one pass: a value is never looked into.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (name, rest) = part.split_once("}}").expect("placeholders of templates are closed");
        let value = values.iter().find(|(known, _)| *known == name);
        text.push_str(value.expect("placeholders of templates are known").1);
        text.push_str(rest);
    }
    text
}

/// Text as markup shows it, also between the quotes of an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are not allowed in HTML.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// PNG bytes as an address.
pub(crate) fn png_address(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

/// An object with no side longer than `most` pixels.
pub(crate) fn bin_object(object: &Array2<Complex32>, most: usize) -> Array2<Complex32> {
    viewer::bin_complex(object, most).values
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_in_values_are_left_alone() {
        let text = fill("a {{x}} b {{y}} c", &[("x", "{{y}}"), ("y", "2")]);
        assert_eq!(text, "a {{y}} b 2 c");
    }

    #[test]
    fn no_text_becomes_markup() {
        assert_eq!(
            escape("<a href='x' b=\"&\">\u{0}"),
            "&lt;a href=&#39;x&#39; b=&quot;&amp;&quot;&gt;\u{fffd}"
        );
        let data = in_script(&json!({"x": "</script><script>"}));
        assert!(!data.contains('<'), "{data}");
        assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["x"], "</script><script>");
    }
}
