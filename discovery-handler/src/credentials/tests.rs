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

#[test]
fn what_can_never_work_is_refused_with_its_name_and_without_its_value() {
    let ((cert, key), (_, other)) = (pair(), pair());
    let (long, many) = ("x".repeat(16_385), "a".repeat(3));
    let many: String = (0..33)
        .map(|number| format!("x-{many}-{number}: {SECRET}\n"))
        .collect();
    let half = cert.split_at(cert.len() / 2).0;
    let damaged = b"-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
    let cases: &[Case] = &[
        (
            &[("HTTP_TOKEN", b"hunter2")],
            "HTTP_TOKEN is unknown; expected HTTP_BEARER_TOKEN, HTTP_USERNAME",
        ),
        (&[("HTTP_", b"hunter2")], "HTTP_ is unknown"),
        (&[(BEARER, b"")], "HTTP_BEARER_TOKEN is empty"),
        (&[(BEARER, b"\n")], "HTTP_BEARER_TOKEN is empty"),
        (
            &[(BEARER, b"hunter2\xff")],
            "HTTP_BEARER_TOKEN is not UTF-8 text",
        ),
        (
            &[(BEARER, b"hunter2\nX: y")],
            "HTTP_BEARER_TOKEN has a control character",
        ),
        (
            &[(BEARER, b"hunter2 x")],
            "HTTP_BEARER_TOKEN has a character that no token has",
        ),
        (
            &[(BEARER, long.as_bytes())],
            "HTTP_BEARER_TOKEN is longer than 16384 bytes",
        ),
        (
            &[(USERNAME, b"hunter2")],
            "HTTP_USERNAME needs HTTP_PASSWORD beside it",
        ),
        (
            &[(PASSWORD, b"hunter2")],
            "HTTP_PASSWORD needs HTTP_USERNAME beside it",
        ),
        (
            &[(BEARER, b"t"), (PASSWORD, b"hunter2")],
            "HTTP_PASSWORD needs HTTP_USERNAME",
        ),
        (
            &[(BEARER, b"hunter2"), (USERNAME, b"u"), (PASSWORD, b"p")],
            "HTTP_BEARER_TOKEN does not go with HTTP_USERNAME",
        ),
        (
            &[(USERNAME, b"hunter2:"), (PASSWORD, b"p")],
            "HTTP_USERNAME has a colon",
        ),
        (
            &[(USERNAME, b"u"), (PASSWORD, b"hunter2\0")],
            "HTTP_PASSWORD has a control character",
        ),
        (&[(HEADERS, b"")], "HTTP_HEADERS is empty"),
        (
            &[(HEADERS, b"hunter2\xff: x")],
            "HTTP_HEADERS is not UTF-8 text",
        ),
        (
            &[(HEADERS, b"X-A: b\nhunter2")],
            "HTTP_HEADERS line 2 is not of the form",
        ),
        (
            &[(HEADERS, b"X-A: b\n hunter2: x")],
            "HTTP_HEADERS line 2 has no valid name",
        ),
        (
            &[(HEADERS, b": hunter2")],
            "HTTP_HEADERS line 1 has no valid name",
        ),
        (
            &[(HEADERS, b"X-A: hunter2\rX-B: c")],
            "HTTP_HEADERS line 1 has a character that no header has",
        ),
        (
            &[(HEADERS, b"X-A: hunter2\nx-a: c")],
            "HTTP_HEADERS line 2 has the same header twice",
        ),
        (
            &[(HEADERS, many.as_bytes())],
            "HTTP_HEADERS has more than 32 headers",
        ),
        (
            &[(HEADERS, long.as_bytes())],
            "HTTP_HEADERS is longer than 16384 bytes",
        ),
        (
            &[(HEADERS, b"Authorization: Token hunter2"), (BEARER, b"t")],
            "HTTP_HEADERS line 1 has the same header twice: Authorization",
        ),
        (
            &[(CA, b"hunter2")],
            "HTTP_CA_CERT holds no certificate in PEM",
        ),
        (&[(CA, half)], "HTTP_CA_CERT is not whole PEM"),
        (
            &[(CA, damaged)],
            "HTTP_CA_CERT has a certificate that is damaged",
        ),
        (
            &[(CERT, &cert)],
            "HTTP_CLIENT_CERT needs HTTP_CLIENT_KEY beside it",
        ),
        (
            &[(KEY, &key)],
            "HTTP_CLIENT_KEY needs HTTP_CLIENT_CERT beside it",
        ),
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
        (
            &[(CERT, &cert), (KEY, &other)],
            "HTTP_CLIENT_KEY does not belong to the certificate",
        ),
    ];
    for (properties, why) in cases {
        let error = read(properties).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("discoveryProperties: {why}")),
            "{why}: {error}"
        );
        assert!(
            !error.contains(SECRET) && !error.contains('\n') && error.len() < 250,
            "{error}"
        );
    }
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
