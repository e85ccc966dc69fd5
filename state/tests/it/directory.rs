//! One process, one application, one origin per state directory.

use state::{StateDirectory, StateError};

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
