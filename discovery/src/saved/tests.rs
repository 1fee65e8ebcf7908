use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::{Device, devices::Devices};

fn list(ids: &[&str]) -> Arc<DeviceList> {
    let device = |id: &&str| Device {
        id: id.to_string(),
        ..Device::default()
    };
    let devices = Devices::from(ids.iter().map(device).collect::<Vec<_>>());
    Arc::new(DeviceList::default().next(&devices).unwrap())
}

fn saved(directory: &Path) -> Arc<Saved> {
    let mut settings = Settings::in_directory(Path::new("/"), "test");
    settings.state_directory = Some(directory.join("state"));
    Saved::new(&settings).unwrap()
}

async fn load(saved: &Saved, request: &str) -> Option<Arc<DeviceList>> {
    let loaded = saved.load(&request.to_owned(), &PeerLog::new()).await;
    loaded.map(|(list, _)| Arc::new(list))
}

/// A saved list with its file.
fn written(ids: &[&str]) -> (TempDir, Arc<Saved>, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let saved = saved(directory.path());
    let path = saved.path(&"request".to_owned());
    saved.write(&path, &list(ids)).unwrap();
    (directory, saved, path)
}

fn files(saved: &Saved) -> usize {
    fs::read_dir(&saved.directory).unwrap().count()
}

#[tokio::test]
async fn the_last_list_of_a_request_is_there_for_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let before = saved(directory.path());
    assert_eq!(load(&before, "request").await, None);
    let mut saver = before.keep(&"request".to_owned());
    saver.save(&list(&["a"]));
    saver.save(&list(&["a", "b"]));
    drop(saver);
    let after = saved(directory.path());
    while load(&after, "request").await != Some(list(&["a", "b"])) {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(load(&after, "another").await, None);
}

#[tokio::test]
async fn a_file_is_for_its_owner_alone_and_nothing_else_is_left() {
    let (_directory, saved, path) = written(&["a", "b"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&saved.directory)), (0o600, 0o700));
    saved.write(&path, &list(&["c"])).unwrap();
    assert_eq!(files(&saved), 1);
    assert_eq!(load(&saved, "request").await, Some(list(&["c"])));
}

#[tokio::test]
async fn a_list_of_many_pieces_is_the_same_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..5_000).map(|n| format!("device-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let (saved, whole) = (saved(directory.path()), list(&ids));
    let path = saved.path(&"request".to_owned());
    saved.write(&path, &whole).unwrap();
    assert_eq!(load(&saved, "request").await, Some(whole));
}

#[tokio::test]
async fn a_file_that_is_damaged_cut_foreign_or_huge_is_not_used() {
    let (_directory, saved, path) = written(&["device-1", "device-2"]);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(read(&path).is_err(), "byte {at} is another one");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(read(&path).is_err(), "cut behind byte {at}");
    }
    for foreign in [&b""[..], b"http://device\n", &[0; 100_000]] {
        fs::write(&path, foreign).unwrap();
        assert_eq!(load(&saved, "request").await, None);
    }
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(load(&saved, "request").await, None);
}

#[tokio::test]
async fn what_is_no_file_is_not_used_and_keeps_nobody_waiting() {
    let (_directory, saved, path) = written(&["a"]);
    for target in ["/dev/zero", "/dev/stdin", "/", "/nowhere"] {
        fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
        assert_eq!(load(&saved, "request").await, None, "{target}");
        saved.write(&path, &list(&["b"])).unwrap();
        assert_eq!(load(&saved, "request").await, Some(list(&["b"])));
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(load(&saved, "request").await, None);
    assert!(saved.write(&path, &list(&["b"])).is_err());
}

#[tokio::test]
async fn a_list_that_is_too_old_is_not_used() {
    let (directory, _, path) = written(&["a"]);
    let mut settings = Settings::in_directory(Path::new("/"), "test");
    settings.state_directory = Some(directory.path().join("state"));
    settings.state_max_age = Duration::from_secs(60);
    let saved = Saved::new(&settings).unwrap();
    assert!(load(&saved, "request").await.is_some());
    for (seconds, used) in [(50, true), (70, false), (-3_600, true)] {
        // A clock that was set back makes it a list of the future, which is used.
        let written = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut bytes = fs::read(&path).unwrap();
        bytes[16..24].copy_from_slice(&written.wrapping_add_signed(-seconds).to_be_bytes());
        let end = bytes.len() - 16;
        let hash = Hash16::digest(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash);
        fs::write(&path, bytes).unwrap();
        assert_eq!(load(&saved, "request").await.is_some(), used, "{seconds}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("state"), "a file").unwrap();
    let saved = saved(directory.path());
    assert_eq!(load(&saved, "request").await, None);
    let path = saved.path(&"request".to_owned());
    let error = saved.write(&path, &list(&["a"])).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("writing into /"),
        "{error:#}"
    );
}

#[tokio::test]
async fn files_are_few_and_those_that_nobody_writes_any_more_go() {
    let (_directory, saved, first) = written(&["a"]);
    let old = |path: &Path, age: u64| {
        let time = SystemTime::now() - Duration::from_secs(age);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let foreign = saved.directory.join("foreign");
    let abandoned = saved.directory.join(format!("{UNFINISHED}x"));
    for path in [&foreign, &abandoned] {
        fs::write(path, "").unwrap();
        old(path, 1_000_000);
    }
    old(&first, 25 * 60 * 60);
    for n in 0..MAX_FILES + 10 {
        let path = saved.path(&n);
        saved.write(&path, &list(&["a"])).unwrap();
        old(&path, 10_000 - n as u64);
    }
    assert!(foreign.exists() && !abandoned.exists() && !first.exists());
    assert_eq!(files(&saved), MAX_FILES + 1);
    assert!(!saved.path(&9_usize).exists() && saved.path(&10_usize).exists());
}

#[test]
fn requests_and_handlers_have_files_of_their_own() {
    let paths = |name: &str| {
        let mut settings = Settings::in_directory(Path::new("/"), name);
        settings.state_directory = Some("/state".into());
        let saved = Saved::new(&settings).unwrap();
        ["secret", "secret2"].map(|request| saved.path(&request))
    };
    let ([a, b], [c, d]) = (paths("http"), paths("other"));
    assert!(a != b && a != c && b != d && c != d);
    assert!(!a.to_string_lossy().contains("secret"));
    assert_eq!(a.extension().unwrap(), EXTENSION);
}
