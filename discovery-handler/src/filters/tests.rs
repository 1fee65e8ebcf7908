use super::*;

fn read(yaml: &str, format: Format) -> Result<Filters, String> {
    #[derive(Deserialize)]
    struct Both {
        include: Option<Written>,
        exclude: Option<Written>,
    }
    let both: Both = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    Filters::new(both.include, both.exclude, format)
}

/// Which of three devices are taken.
fn taken(yaml: &str) -> Vec<&'static str> {
    let filters = read(yaml, Format::Devices).unwrap();
    let devices = [
        ("boiler-7", "http://10.0.0.7/sensor", "lab"),
        ("boiler-8", "http://10.0.0.8/sensor", "hall"),
        ("Pump ü", "https://pump:80", ""),
    ];
    let is_taken = |(id, endpoint, site): &(&str, &str, &str)| {
        let site = (!site.is_empty()).then(|| ("SITE".into(), site.to_string()));
        filters.take(id, endpoint, &site.into_iter().collect())
    };
    devices
        .into_iter()
        .filter(is_taken)
        .map(|(id, ..)| id)
        .collect()
}

#[test]
fn all_of_an_entry_has_to_match_and_one_entry_of_a_list_and_exclude_wins() {
    let (seven, eight, pump) = ("boiler-7", "boiler-8", "Pump ü");
    for (yaml, devices) in [
        ("include:\nexclude: ~", vec![seven, eight, pump]),
        ("include: {id: '^boiler-[0-9]+$'}", vec![seven, eight]),
        ("include: {id: boiler, endpoint: 7}", vec![seven]),
        (
            "include: [{id: '7'}, {endpoint: '^https:'}]",
            vec![seven, pump],
        ),
        ("exclude: {endpoint: '^http://10\\.'}", vec![pump]),
        ("exclude: [{id: '7'}, {id: Pump}]", vec![eight]),
        ("include: {id: boiler}\nexclude: {id: '8'}", vec![seven]),
        (
            "include: {properties: {SITE: '^(lab|hall)$'}}",
            vec![seven, eight],
        ),
        ("include: {id: '8', properties: {SITE: lab}}", vec![]),
        ("exclude: {properties: {SITE: ''}}", vec![pump]),
        ("include: {properties: {OTHER: ''}}", vec![]),
        ("include: {id: '(?i)PUMP ü$'}", vec![pump]),
        ("include: {id: 'Pump .+$'}", vec![pump]),
    ] {
        assert_eq!(taken(yaml), devices, "{yaml}");
    }
}

#[test]
fn what_can_never_work_is_refused_with_its_place() {
    let many = format!("include: [{}]", "{id: a},".repeat(17));
    let long = format!("include: {{id: {}}}", "a".repeat(1_025));
    for (yaml, why) in [
        (
            "include: {id: 'a('}",
            "include, entry 1, id is not a regular expression: unclosed group",
        ),
        (
            "exclude: [{id: a}, {endpoint: '*'}]",
            "exclude, entry 2, endpoint is not a regular expression: repetition operator missing expression",
        ),
        (
            "include: {properties: {A: '['}}",
            "include, entry 1, property A is not a regular expression: unclosed character class",
        ),
        (
            "exclude: {id: 'a[ab]{50}c'}",
            "exclude, entry 1, id is a regular expression that would need too much memory",
        ),
        (
            "include: {id: 'a{1000}{1000}'}",
            "include, entry 1, id is a regular expression that would need too much memory",
        ),
        (
            "include: {properties: {A-B: a}}",
            "include, entry 1, properties: a name is not letters",
        ),
        ("include: []", "include is an empty list"),
        (
            "exclude: {}",
            "exclude, entry 1 has no id, endpoint or properties",
        ),
        ("include: {name: a}", "unknown field `name`"),
        ("include: [[]]", "expected"),
        ("include: {id: [a]}", "expected string"),
        (&many, "include and exclude have more than 16 expressions"),
        (&long, "include, entry 1, id is longer than 1024 bytes"),
    ] {
        let error = read(yaml, Format::Devices).unwrap_err();
        assert!(error.contains(why), "{error}\n    instead of {why}");
    }
    let error = read("include: {properties: {A: a}}", Format::Lines).unwrap_err();
    assert!(
        error.contains("devices of the format lines have none"),
        "{error}"
    );
}

#[test]
fn filters_are_the_same_if_they_are_written_the_same() {
    let hash = |filters: &Filters| {
        let mut hasher = std::hash::DefaultHasher::new();
        filters.hash(&mut hasher);
        hasher.finish()
    };
    let read = |yaml| read(yaml, Format::Devices).unwrap();
    let (one, same) = (read("include: {id: a}"), read("include: [{id: a}]"));
    assert_eq!(one, same);
    assert_eq!(hash(&one), hash(&same));
    for other in [
        "include: {id: b}",
        "exclude: {id: a}",
        "include: {endpoint: a}",
    ] {
        assert_ne!(one, read(other));
        assert_ne!(hash(&one), hash(&read(other)));
    }
}

#[test]
fn what_people_filter_by_is_small_enough() {
    let rooms: Vec<_> = (100..200).map(|room| format!("room-{room}")).collect();
    let names: Vec<_> = (0..15)
        .map(|n| format!("sensor-{n}\\.hall-{}\\.plant\\.example\\.com", n * 7))
        .collect();
    for pattern in [
        r"^https?://[a-z0-9-]+\.hall-3\.plant\.example\.com(:[0-9]{1,5})?/",
        r"^10\.(1|2)[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}(:[0-9]+)?$",
        r"(?i)boiler|pump|valve",
        r"temperature.*(north|south)",
        r"\bspare\b",
        &format!("^({})$", rooms.join("|")),
        &format!("^https?://({})", names.join("|")),
    ] {
        assert!(compile(pattern).is_ok(), "{pattern}");
    }
}
