#![no_main]

use akri_http_discovery_handler::formats::Format;
use akri_http_fuzz::hold;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    hold(body, Format::Lines);
});
