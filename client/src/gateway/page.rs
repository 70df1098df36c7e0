//! The page that people try a gateway with: it speaks to nobody but this gateway, and
//! runs no script but its own.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

pub(super) async fn show() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE)
}

const PAGE: &str = include_str!("page.html");

/// Names script and style by their hashes (CSP level 3, section 2.3.1).
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let source = |tag| {
        let hash = digest(&SHA256, inside(tag).as_bytes());
        format!("'sha256-{}'", BASE64_STANDARD.encode(hash))
    };
    format!(
        "default-src 'none'; connect-src 'self'; img-src data:; script-src {}; style-src {}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source("script"),
        source("style")
    )
});

/// What the page has in its only element of this name.
fn inside(tag: &str) -> &'static str {
    let after = PAGE.split_once(&format!("<{tag}>"));
    let inside = after.and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    inside.map_or("", |(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_of_its_own() {
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1);
            assert!(inside(tag).len() > 1000);
        }
        assert!(!PAGE.contains("style=\"") && !PAGE.contains("http"));
    }
}
