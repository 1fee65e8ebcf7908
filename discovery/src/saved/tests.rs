use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::{Device, devices::Devices};

/// Where the list of a request of this name is.
fn path(saved: &Saved, request: &str) -> PathBuf {
    saved.path(|list| list.write(request.as_bytes()))
}

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

async fn load(saved: &Arc<Saved>, request: &str) -> Option<Arc<DeviceList>> {
    let loaded = saved
        .load(path(saved, request), request, &PeerLog::new())
        .await;
    loaded.unwrap().map(|(list, _)| Arc::new(list))
}

/// A saved list with its file.
fn written(ids: &[&str]) -> (TempDir, Arc<Saved>, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let saved = saved(directory.path());
    let path = path(&saved, "request");
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
    let mut saver = before.keep(path(&before, "request"), "request", LineBudget::default());
    saver.save(&list(&["a"]));
    saver.save(&list(&["a", "b"]));
    drop(saver);
    let after = saved(directory.path());
    let written = async {
        while load(&after, "request").await != Some(list(&["a", "b"])) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), written).await.unwrap();
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
    let path = path(&saved, "request");
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
    let path = path(&saved, "request");
    let error = saved.write(&path, &list(&["a"])).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("writing into /"),
        "{error:#}"
    );
}

#[tokio::test]
async fn what_nobody_writes_any_more_goes_and_the_rest_is_bounded() {
    let (directory, saved, first) = written(&["a"]);
    let old = |name: &str, age: u64| {
        let path = saved.directory.join(name);
        let time = SystemTime::now() - Duration::from_secs(age);
        File::create(&path).unwrap().set_modified(time).unwrap();
        path
    };
    let hours = |hours: u64| hours * 60 * 60;
    let foreign = old("foreign.list", hours(1_000));
    let abandoned = old(&format!("{UNFINISHED}x"), hours(2));
    let under_way = old(&format!("{UNFINISHED}y"), 10);
    let dead = old(&format!("{:032x}.list", 1), hours(25));
    let alive = old(&format!("{:032x}.list", 2), hours(23));
    // Each process looks once, and whenever there is a new list.
    saved.write(&first, &list(&["b"])).unwrap();
    assert!(dead.exists() && abandoned.exists());
    let next = self::saved(directory.path());
    next.write(&first, &list(&["a"])).unwrap();
    assert!(!dead.exists() && !abandoned.exists());
    assert!(foreign.exists() && under_way.exists() && alive.exists() && first.exists());

    for n in 2..MAX_FILES {
        next.write(&path(&next, &n.to_string()), &list(&["a"]))
            .unwrap();
    }
    let refused = next
        .write(&path(&next, "one more"), &list(&["a"]))
        .unwrap_err();
    assert!(
        refused.to_string().contains("holds 128 lists already"),
        "{refused}"
    );
    next.write(&first, &list(&["c"])).unwrap();
}

#[test]
fn requests_and_handlers_have_files_of_their_own_under_the_same_name_in_each_version() {
    let paths = |name: &str| {
        let mut settings = Settings::in_directory(Path::new("/"), name);
        settings.state_directory = Some("/state".into());
        let saved = Saved::new(&settings).unwrap();
        ["secret", "secret2"].map(|request| path(&saved, request))
    };
    let ([a, b], [c, d]) = (paths("http"), paths("other"));
    assert!(a != b && a != c && b != d && c != d);
    assert_eq!(
        a,
        Path::new("/state/http/8f64bfc250ac98ecf5a0f6a52cde7ec5.list")
    );
}
