//! Wrong wiring does not compile, and the compiler says what is wrong in words of the DSL.
//!
//! A package of its own, since the cases are built with all that their package may use: here no C code, and no test library.
//!
//! One test for all files of `cases`, since each of them costs a run of the compiler. After a change of the DSL's types, or
//! of the toolchain, `TRYBUILD=overwrite cargo test -p wiring` writes the messages anew; read them as a user would.

#[test]
fn wrong_wiring_does_not_compile_and_the_message_names_what_is_wrong() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("cases/*.rs");
}
