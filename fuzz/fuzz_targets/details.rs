#![no_main]

use std::path::Path;

use akri_discovery::Settings;
use akri_http_discovery_handler::DiscoveryDetails;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let settings = Settings::in_directory(Path::new("/"), "http");
    match DiscoveryDetails::parse(text, &settings) {
        Ok(details) => assert_eq!(Ok(details), DiscoveryDetails::parse(text, &settings)),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
});
