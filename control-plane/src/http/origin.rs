//! Pages of other sites cannot change anything here: a browser that sends their request says so.
//!
//! The rule is the one of Go's `http.CrossOriginProtection`: by `Sec-Fetch-Site` (Fetch Metadata Request Headers) where
//! it is sent, else by `Origin` against `Host`. Programs that are no browsers send neither, and pass.
//!
//! Deliberately absent: who the caller is.

use axum::{
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::problem::Refusal;

/// Refuses requests that change something and come from a page of another site.
pub(super) async fn protect(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || is_ours(request.headers()) {
        return next.run(request).await;
    }
    let detail = "a page of another site may not change anything here";
    Refusal::plain(StatusCode::FORBIDDEN, "forbidden", detail.to_owned()).into_response()
}

fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("invalid"));
    match (text("sec-fetch-site"), text(header::ORIGIN.as_str())) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, None) => true,
        (None, Some(origin)) => {
            let origin = origin.parse::<Uri>().ok();
            let host = origin.as_ref().and_then(|origin| origin.authority()).map(|host| host.as_str());
            host.is_some() && host == text(header::HOST.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_other_sites_are_kept_out() {
        let ours = |sent: &[(&'static str, &'static str)]| {
            let headers = sent.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            is_ours(&headers.collect())
        };
        let host = ("host", "127.0.0.1:7401");
        assert!(ours(&[host]), "a program");
        assert!(ours(&[host, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:7401")]));
        assert!(ours(&[host, ("sec-fetch-site", "none")]), "typed by the user");
        assert!(ours(&[host, ("origin", "http://127.0.0.1:7401")]), "an old browser");
        for other in ["http://evil.example", "http://127.0.0.1:7400", "null", "%"] {
            assert!(!ours(&[host, ("origin", other)]), "{other}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(!ours(&[host, ("sec-fetch-site", site)]), "{site}");
        }
    }
}
