use rcgen::{CertificateParams, KeyPair};

use super::*;

const SECRET: &str = "hunter2";

/// Properties, and why they are refused.
type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);

fn read(properties: &[(&str, &[u8])]) -> Result<Credentials, PropertyError> {
    let properties = (properties.iter()).map(|(name, value)| ((*name).into(), value.to_vec()));
    from_properties(&properties.collect(), false)
}

/// A certificate that signs itself, and its key.
fn pair() -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem().into(), key.serialize_pem().into())
}

#[test]
fn without_properties_there_are_no_credentials() {
    assert!(read(&[]).unwrap() == Credentials::default());
    assert!(read(&[("TOKEN", b"x"), ("http_x", b"")]).unwrap() == Credentials::default());
}

#[test]
fn a_line_feed_at_the_end_does_not_matter_and_other_values_are_other_credentials() {
    for (name, also) in [
        (BEARER, None),
        (USERNAME, Some(PASSWORD)),
        (PASSWORD, Some(USERNAME)),
    ] {
        let with = |value: &[u8]| {
            let also = also.map(|also| (also, &b"x"[..]));
            let all: Vec<_> = [(name, value)].into_iter().chain(also).collect();
            read(&all).unwrap()
        };
        assert!(
            with(b"a") == with(b"a\n") && with(b"a") == with(b"a\r\n"),
            "{name}"
        );
        assert!(with(b"a") != with(b"b"), "{name}");
    }
    let lines = |lines: &str| read(&[(HEADERS, lines.as_bytes())]).unwrap();
    assert!(lines("X-Key: a\nX-Site: b") == lines("\nX-Key:a \r\n\nx-site:  b\n"));
}

/// Each of these properties is refused for this reason, by name and not by value.
fn are_refused(cases: &[Case]) {
    for (properties, why) in cases {
        let error = read(properties).unwrap_err().to_string();
        let why = format!("discoveryProperties: {why}");
        assert!(error.starts_with(&why), "{why}: {error}");
        let fine = !error.contains(SECRET) && !error.contains('\n') && error.len() < 250;
        assert!(fine, "{error}");
    }
}

fn alone_are_refused(name: &str, cases: &[(&[u8], &str)]) {
    for (value, why) in cases {
        are_refused(&[(&[(name, value)], &format!("{name} {why}"))]);
    }
}

#[test]
fn a_name_that_is_unknown_or_does_not_go_with_another_is_refused() {
    let (secret, x) = (SECRET.as_bytes(), &b"x"[..]);
    let unknown = "HTTP_TOKEN is unknown; expected HTTP_BEARER_TOKEN, HTTP_USERNAME";
    let both = "HTTP_BEARER_TOKEN does not go with HTTP_USERNAME";
    let all = [(BEARER, secret), (USERNAME, x), (PASSWORD, x)];
    let twice = "HTTP_HEADERS line 1 has the same header twice: Authorization";
    let token = (HEADERS, &b"Authorization: Token hunter2"[..]);
    are_refused(&[
        (&[("HTTP_TOKEN", secret)], unknown),
        (&[("HTTP_", secret)], "HTTP_ is unknown"),
        (
            &[(USERNAME, secret)],
            "HTTP_USERNAME needs HTTP_PASSWORD beside it",
        ),
        (
            &[(PASSWORD, secret)],
            "HTTP_PASSWORD needs HTTP_USERNAME beside it",
        ),
        (
            &[(BEARER, x), (PASSWORD, secret)],
            "HTTP_PASSWORD needs HTTP_USERNAME",
        ),
        (&all, both),
        (
            &[(USERNAME, b"hunter2:"), (PASSWORD, x)],
            "HTTP_USERNAME has a colon",
        ),
        (
            &[(USERNAME, x), (PASSWORD, b"hunter2\0")],
            "HTTP_PASSWORD has a control character",
        ),
        (&[token, (BEARER, x)], twice),
    ]);
}

#[test]
fn a_token_is_one_word() {
    let long = "x".repeat(16_385);
    alone_are_refused(
        BEARER,
        &[
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"hunter2\xff", "is not UTF-8 text"),
            (b"hunter2\nX: y", "has a control character"),
            (b"hunter2 x", "has a character that no token has"),
            (long.as_bytes(), "is longer than 16384 bytes"),
        ],
    );
}

#[test]
fn headers_are_lines_of_a_name_and_a_value() {
    let long = "x".repeat(16_385);
    let many: String = (0..33).map(|n| format!("x-{n}: {SECRET}\n")).collect();
    let no_header = "line 1 has a character that no header has";
    alone_are_refused(
        HEADERS,
        &[
            (b"", "is empty"),
            (b"hunter2\xff: x", "is not UTF-8 text"),
            (b"X-A: b\nhunter2", "line 2 is not of the form"),
            (b"X-A: b\n hunter2: x", "line 2 has no valid name"),
            (b": hunter2", "line 1 has no valid name"),
            (b"X-A: hunter2\rX-B: c", no_header),
            (b"X-A: hunter2\nx-a: c", "line 2 has the same header twice"),
            (many.as_bytes(), "has more than 32 headers"),
            (long.as_bytes(), "is longer than 16384 bytes"),
        ],
    );
}

#[test]
fn certificates_and_keys_are_pem_and_belong_together() {
    let ((cert, key), (_, other)) = (pair(), pair());
    let half = cert.split_at(cert.len() / 2).0;
    let damaged = b"-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
    alone_are_refused(
        CA,
        &[
            (b"hunter2", "holds no certificate in PEM"),
            (half, "is not whole PEM"),
            (damaged, "has a certificate that is damaged"),
        ],
    );
    alone_are_refused(CERT, &[(&cert, "needs HTTP_CLIENT_KEY beside it")]);
    alone_are_refused(KEY, &[(&key, "needs HTTP_CLIENT_CERT beside it")]);
    let mismatch = "HTTP_CLIENT_KEY does not belong to the certificate";
    are_refused(&[
        (
            &[(CERT, b"hunter2"), (KEY, &key)],
            "HTTP_CLIENT_CERT holds no certificate in PEM",
        ),
        (
            &[(CERT, damaged), (KEY, &key)],
            "HTTP_CLIENT_CERT is damaged",
        ),
        (
            &[(CERT, &cert), (KEY, &cert)],
            "HTTP_CLIENT_KEY holds no private key in PEM",
        ),
        (&[(CERT, &cert), (KEY, &other)], mismatch),
    ]);
    assert!(read(&[(CERT, &cert), (KEY, &key), (CA, &cert)]).is_ok());
}

#[test]
fn headers_that_the_client_sets_itself_are_refused() {
    for name in [
        "Host",
        "Content-Length",
        "connection",
        "ACCEPT",
        "Accept-Encoding",
        "If-None-Match",
    ] {
        let line = format!("{name}: {SECRET}");
        let error = read(&[(HEADERS, line.as_bytes())]).unwrap_err().to_string();
        let name = name.to_lowercase();
        let why = format!(
            "discoveryProperties: HTTP_HEADERS line 1 sets {name}, which is not for properties"
        );
        assert_eq!(error, why);
    }
}

#[test]
fn a_user_name_in_the_url_goes_with_no_other_authorization() {
    for (name, value) in [
        (BEARER, SECRET),
        (USERNAME, SECRET),
        (HEADERS, "authorization: hunter2"),
    ] {
        let mut properties = Properties::from([(name.into(), value.into())]);
        if name == USERNAME {
            properties.insert(PASSWORD.into(), SECRET.into());
        }
        let error = from_properties(&properties, true).unwrap_err().to_string();
        let why = format!("discoveryProperties: {name} does not go with a user name in the URL");
        assert_eq!(error, why);
    }
    let key = Properties::from([(HEADERS.into(), "X-Key: hunter2".into())]);
    assert!(from_properties(&key, true).is_ok());
}

#[test]
fn nothing_of_credentials_is_shown() {
    let all = read(&[
        (BEARER, SECRET.as_bytes()),
        (HEADERS, b"X-Hunter2: hunter2"),
    ])
    .unwrap();
    assert_eq!(format!("{all:?}"), "Credentials(not shown)");
}

#[test]
fn names_of_ignored_properties_are_few_and_without_values() {
    let properties: Properties = (0..20)
        .map(|n| (format!("P{n:02}\n"), SECRET.into()))
        .collect();
    let names = ignored(&properties).unwrap();
    assert_eq!(names, "P00, P01, P02, P03, P04, P05, P06, P07 and 12 more");
    assert_eq!(ignored(&[(BEARER.into(), vec![])].into()), None);
}
