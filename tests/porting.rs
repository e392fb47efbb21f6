//! What it takes to attach an accelerator: the example works, and the numbers in the documents are so.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

#[path = "../vmm/examples/attach/main.rs"]
mod attach;

/// The most that the glue may have, lines.
const GLUE: u64 = 100;

#[test]
fn a_device_of_ones_own_shares_a_guests_memory() {
    let said = attach::run().unwrap();
    assert!(
        said.starts_with("16384 pages added up to 8556380160"),
        "{said}"
    );
}

#[test]
fn glue_is_at_most_100_lines_and_the_documents_say_how_many() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(root.join("docs/count-glue")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut counted: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let what = line[..14].trim();
        let lines = line.split_whitespace().find_map(|word| word.parse().ok());
        counted
            .entry(what)
            .or_default()
            .push(lines.expect("a number of lines"));
    }
    let (glue, mmu) = (&counted["glue"], &counted["MMU functions"]);
    assert_eq!((glue.len(), mmu.len()), (2, 4), "{text}");
    assert!(
        glue.iter().all(|lines| (10..=GLUE).contains(lines)),
        "{text}"
    );
    for name in ["README.md", "docs/porting.md"] {
        let document = fs::read_to_string(root.join(name)).unwrap();
        let words: Vec<&str> = document.split(|c: char| !c.is_ascii_digit()).collect();
        for lines in glue.iter().chain(mmu) {
            let number = lines.to_string();
            assert!(
                words.contains(&number.as_str()),
                "{name} does not say {lines}:\n{text}"
            );
        }
    }
}
