//! One process, one application, one origin per state directory.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use state::{Backend, DatabaseOptions, StateDirectory, StateError};

#[test]
fn a_second_holder_is_refused_and_told_who_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let held = StateDirectory::open(&path, "app").unwrap();
    assert_eq!(held.path(), path);
    let error = StateDirectory::open(&path, "app").unwrap_err();
    assert!(matches!(error, StateError::Locked { .. }));
    let pid = std::process::id().to_string();
    assert!(
        error.to_string().contains(&format!("process {pid}")),
        "{error}"
    );
    drop(held);
    StateDirectory::open(&path, "app").unwrap();
}

/// Where the child of the next test is to hold a directory.
const HELD: &str = "STATE_HELD_DIRECTORY";

#[test]
fn another_process_is_refused_while_its_holder_lives_and_not_once_it_is_killed() {
    if let Ok(path) = std::env::var(HELD) {
        hold(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let test =
        "directory::another_process_is_refused_while_its_holder_lives_and_not_once_it_is_killed";
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HELD, &path)
        // It holds the directory for as long as this pipe is open, so it does not outlive a test that fails.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "held"),
        "it never held it"
    );

    let error = StateDirectory::open(&path, "app").unwrap_err();
    assert!(matches!(error, StateError::Locked { .. }), "{error}");
    let text = error.to_string();
    let by = format!("process {}", holder.id());
    assert!(
        text.contains(&by) && text.contains(&path.display().to_string()),
        "{text}"
    );

    holder.kill().unwrap();
    holder.wait().unwrap();
    let mut state = StateDirectory::open(&path, "app").unwrap();
    drop(state.open_database(Backend::Sled, &options()).unwrap());
    // Nor was the database of the dead one set aside.
    let files = std::fs::read_dir(&path).unwrap().count();
    assert_eq!(files, 3, "lock, identity and stores");
}

/// Holds the directory, with a database in it, until the parent is gone.
fn hold(path: &Path) -> ! {
    let mut state = StateDirectory::open(path, "app").unwrap();
    let _database = state.open_database(Backend::Sled, &options()).unwrap();
    // Not `println!`, which the test harness may keep to itself.
    let mut out = std::io::stdout();
    writeln!(out, "held").unwrap();
    out.flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(1);
}

#[test]
fn another_applications_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(StateDirectory::open(directory.path(), "app").unwrap());
    let error = StateDirectory::open(directory.path(), "other").unwrap_err();
    assert!(matches!(error, StateError::Foreign { .. }));
    assert!(error.to_string().contains("application `app`"), "{error}");
}

#[test]
fn a_directory_that_belongs_to_another_input_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = StateDirectory::open(directory.path(), "app").unwrap();
    state.belongs_to("input one").unwrap();
    drop(state);
    let mut state = StateDirectory::open(directory.path(), "app").unwrap();
    state.belongs_to("input one").unwrap();
    let error = state.belongs_to("input two").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("belongs to input one, not to input two"),
        "{error}"
    );
}

#[test]
fn an_identity_that_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("identity"), "something else").unwrap();
    let error = StateDirectory::open(directory.path(), "app").unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }));
}

#[test]
fn a_path_that_is_a_file_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = StateDirectory::open(&path, "app").unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

fn options() -> DatabaseOptions {
    DatabaseOptions {
        cache_bytes: 1 << 20,
    }
}

#[test]
fn stores_of_another_engine_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (wrote, wanted) in [
        (Backend::Sled, Backend::Fjall),
        (Backend::Sled, Backend::Redb),
    ] {
        let path = directory.path().join(wanted.name());
        let mut state = StateDirectory::open(&path, "app").unwrap();
        drop(state.open_database(wrote, &options()).unwrap());
        let before = std::fs::read(path.join("identity")).unwrap();
        let error = state.open_database(wanted, &options()).err().unwrap();
        assert!(matches!(error, StateError::OtherBackend { .. }), "{error}");
        let text = error.to_string();
        let stores = state.stores().display().to_string();
        for part in [wrote.name(), wanted.name(), &stores] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(std::fs::read(path.join("identity")).unwrap(), before);
        drop(state.open_database(wrote, &options()).unwrap());
    }
}

#[test]
fn stores_of_a_directory_that_names_no_engine_are_of_sled() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = StateDirectory::open(directory.path(), "app").unwrap();
    std::fs::create_dir(state.stores()).unwrap();
    std::fs::write(state.stores().join("conf"), "").unwrap();
    let error = state.open_database(Backend::Fjall, &options()).err();
    let is_of_sled =
        matches!(&error, Some(StateError::OtherBackend { found, .. }) if found == "sled");
    assert!(is_of_sled, "{error:?}");
}

#[test]
fn a_directory_without_stores_takes_any_engine() {
    let directory = tempfile::tempdir().unwrap();
    for backend in Backend::ALL.into_iter().filter(|it| it.is_built_in()) {
        let mut state = StateDirectory::open(directory.path(), "app").unwrap();
        state.belongs_to("input").unwrap();
        drop(state.open_database(backend, &options()).unwrap());
        drop(state);
        let mut state = StateDirectory::open(directory.path(), "app").unwrap();
        state.belongs_to("input").unwrap();
        drop(state.open_database(backend, &options()).unwrap());
        std::fs::remove_dir_all(state.stores()).unwrap();
    }
}

#[test]
fn a_directory_of_a_newer_version_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    drop(StateDirectory::open(directory.path(), "app").unwrap());
    let identity = directory.path().join("identity");
    let newer = std::fs::read_to_string(&identity)
        .unwrap()
        .lines()
        .map(|line| match line.strip_prefix("format ") {
            Some(_) => "format 4711\n".to_owned(),
            None => format!("{line}\n"),
        })
        .collect::<String>();
    std::fs::write(&identity, &newer).unwrap();
    let error = StateDirectory::open(directory.path(), "app").unwrap_err();
    assert!(matches!(error, StateError::Newer { found: 4711, .. }));
    let text = error.to_string();
    assert!(
        text.contains("newer version") && text.contains("delete the directory"),
        "{text}"
    );
    // Nothing was changed: the newer program can go on.
    assert_eq!(std::fs::read_to_string(&identity).unwrap(), newer);
}
