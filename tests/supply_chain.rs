//! What tessera is made of is what docs/dependencies.md says, and comes from one registry under licences
//! that deny.toml allows. `.ci/supply-chain` asks more, with tools that must be installed for it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

type Names = BTreeSet<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All packages of the workspace and of what it depends on, as cargo resolved them.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the page calls a package of the workspace.
fn part(package: &str) -> &str {
    match package {
        "tessera" => "command line",
        other => other.strip_prefix("tessera-").unwrap(),
    }
}

/// Crates, and which parts use each: as they ship, and for tests alone.
fn used(metadata: &Value) -> (BTreeMap<String, Names>, Names) {
    let members = metadata["workspace_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let (mut shipped, mut tests) = (BTreeMap::new(), Names::new());
    for package in packages.iter().filter(|package| members.contains(&package["id"])) {
        let user = part(package["name"].as_str().unwrap()).to_owned();
        // What is not published serves tests.
        let ships = package["publish"].as_array().is_none_or(|to| !to.is_empty());
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap().to_owned();
            if name.starts_with("tessera") {
                continue;
            }
            match dependency["kind"].as_str() {
                None if !ships => drop(tests.insert(name)),
                None => drop(shipped.entry(name).or_insert_with(Names::new).insert(user.clone())),
                Some("dev") => drop(tests.insert(name)),
                Some(kind) => panic!("`{name}` runs when tessera is built, as a {kind} dependency"),
            }
        }
    }
    (shipped, tests)
}

/// Rows of the page's tables, cells apart; the first table is of what ships, the second of tests.
fn tables() -> [Vec<Vec<String>>; 2] {
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut tables = page.split("\n|---").skip(1).map(|table| {
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
    });
    [tables.next().unwrap(), tables.next().unwrap()]
}

fn split(cell: &str) -> impl Iterator<Item = String> {
    cell.split(", ").map(str::to_owned)
}

#[test]
fn the_page_says_what_each_crate_is_for() {
    let (shipped, tests) = used(&metadata());
    let [first, second] = tables();
    let mut listed: BTreeMap<String, Names> = BTreeMap::new();
    for row in &first {
        assert!(row[2].len() > 6, "{row:?}");
        let users: Names = split(&row[1]).filter(|user| !user.starts_with("optional")).collect();
        for name in split(&row[0]) {
            assert!(listed.insert(name, users.clone()).is_none(), "{row:?} is there twice");
        }
    }
    assert_eq!(listed, shipped);
    let listed: Names = second.iter().flat_map(|row| split(&row[0])).collect();
    // What ships serves in tests too; the fuzz targets are outside the workspace.
    let tests: Names = tests.into_iter().filter(|name| !shipped.contains_key(name)).collect();
    let apart = |name: &String| !shipped.contains_key(name) && name != "libfuzzer-sys";
    assert_eq!(listed.into_iter().filter(apart).collect::<Names>(), tests);
}

#[test]
fn everything_comes_from_one_registry_under_a_licence_that_is_allowed() {
    let metadata = metadata();
    let policy: toml::Table =
        toml::from_str(&fs::read_to_string(root().join("deny.toml")).unwrap()).unwrap();
    let strings = |value: &toml::Value| -> Names {
        value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let allowed = strings(&policy["licenses"]["allow"]);
    let exceptions: BTreeMap<String, Names> = policy["licenses"]["exceptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["crate"].as_str().unwrap().to_owned(), strings(&entry["allow"])))
        .collect();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let source = package["source"].as_str();
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        let own = name.starts_with("tessera");
        assert!(own == source.is_none() && (own || source == Some(registry)), "{name}: {source:?}");
        let expression = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
        // One of the choices, all of whose parts are allowed.
        let fits = |choice: &str| {
            choice.split(" AND ").all(|licence| {
                let licence = licence.trim_matches([' ', '(', ')']);
                allowed.contains(licence)
                    || exceptions.get(name).is_some_and(|more| more.contains(licence))
            })
        };
        let conjunction = expression.split(") AND ").count() > 1;
        let allowed = match conjunction {
            true => expression.split(" AND ").all(|part| part.split(" OR ").any(fits)),
            false => expression.split(" OR ").any(fits),
        };
        assert!(allowed, "{name} is under {expression}, which deny.toml does not allow");
    }
}
