//! Files, folders and windows of tokens.

use std::collections::HashSet;

use super::*;

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

#[test]
fn files_and_folders_are_read_in_order() {
    let folder = folder(&[
        ("b/two.md", b"two"),
        ("b/ignored.bin", b"\xff"),
        ("b/.hidden.txt", b"hidden"),
        ("b/.git/x.txt", b"hidden"),
        ("b/blank.txt", b" \n"),
        ("b/a/one.TXT", b"\xef\xbb\xbfone"),
        (
            "lines.jsonl",
            b"{\"text\": \"l1\", \"id\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"l\\n2\"}",
        ),
        ("plain", b"plain"),
    ]);
    let path = |name: &str| folder.path().join(name);
    let corpus = Corpus::read(&[path("plain"), path("b"), path("lines.jsonl")], None).unwrap();
    assert_eq!(corpus.documents, ["plain", "one", "two", "l1", "l\n2"]);
    let names: Vec<&str> = corpus.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["plain", "a/one.TXT", "blank.txt", "two.md", "lines.jsonl"]);
    assert_eq!(corpus.sources[0].bytes, 5);
    // sha256sum of `plain`.
    let hash = "a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475";
    assert_eq!(corpus.sources[0].sha256, hash);
    let other = Corpus::read(&[path("lines.jsonl")], Some("id")).unwrap_err();
    assert!(
        other.to_string().contains("line 1 of") && other.to_string().contains("a number in it")
    );
    std::os::unix::fs::symlink(path("b"), path("b/loop")).unwrap();
    assert_eq!(Corpus::read(&[path("b")], None).unwrap().documents, ["one", "two"]);
}

#[test]
fn what_is_no_text_is_refused() {
    let folder = folder(&[
        ("bytes.txt", b"good\xffbad"),
        ("blank.txt", b"\n"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": "),
        ("list.jsonl", b"\n[1]"),
        ("other.jsonl", b"{\"content\": \"a\"}"),
        ("only/x.bin", b"x"),
    ]);
    for (name, message, has_hint) in [
        ("bytes.txt", "is not UTF-8 from byte 4 on", true),
        ("blank.txt", "there is no text in `", true),
        ("broken.jsonl", "line 2 of", false),
        ("broken.jsonl", "is not JSON: EOF while parsing a value at column 9", false),
        ("list.jsonl", "has an array, expected an object whose field `text` is a string", true),
        ("other.jsonl", "line 1 of", true),
        ("other.jsonl", "has no such field, expected", true),
        ("only", "there is no text in `", true),
        ("missing.txt", "cannot read `", false),
    ] {
        let path = folder.path().join(name);
        let error = Corpus::read(std::slice::from_ref(&path), None).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.hint().is_some(), has_hint, "{error}");
    }
    assert_eq!(Corpus::read(&[], None).unwrap_err().to_string(), "there is no text in no files");
    let device = Corpus::read(&[PathBuf::from("/dev/null")], None).unwrap_err();
    assert!(matches!(device, CorpusError::NotAFile { .. }));
}

#[test]
fn more_text_than_there_is_room_for_is_refused() {
    let folder = folder(&[("a", b"12345")]);
    let path = folder.path().join("a");
    let mut room = 9;
    assert_eq!(contents(&path, &mut room).unwrap(), b"12345");
    assert_eq!(room, 4);
    assert!(matches!(contents(&path, &mut room), Err(CorpusError::TooLarge { .. })));
}

#[test]
fn the_built_in_corpus_is_varied_and_clean() {
    let corpus = Corpus::built_in();
    let bytes: usize = corpus.documents.iter().map(String::len).sum();
    assert!((200_000..300_000).contains(&bytes), "{bytes}");
    assert_eq!(corpus.sources.len(), 1);
    assert!(corpus.documents.len() >= 20);
    for document in &corpus.documents {
        assert!(!document.contains('\r') && !document.contains('\u{feff}'));
        assert!(document.ends_with('\n') && document.len() < 30_000);
    }
    let all = corpus.documents.concat();
    // Scripts and kinds of text that models meet.
    for sample in
        ["fn ", "def ", "SELECT", "#include", "| --- |", "你", "ñ", "ß", "é", "日", "и", "∑"]
    {
        assert!(all.contains(sample), "{sample}");
    }
    // What is shipped is what the list says.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let read = Corpus::read(&[folder], None).unwrap();
    let shipped: HashSet<&String> = read.documents.iter().collect();
    assert!(corpus.documents.iter().all(|document| shipped.contains(document)));
    assert_eq!(read.documents.len(), corpus.documents.len() + 1, "all but SOURCES.md");
}

#[test]
fn windows_are_drawn_from_the_whole_text() {
    let documents: Vec<Vec<u32>> = vec![(0..700).collect(), Vec::new(), (700..1003).collect()];
    let drawn = windows(&documents, 10, 205, None, 1);
    assert_eq!(drawn.len(), 21);
    let starts: HashSet<u32> = drawn.iter().map(|window| window[0]).collect();
    assert_eq!(starts.len(), 21);
    for window in &drawn {
        assert!(window[0].is_multiple_of(10));
        assert!(window.iter().copied().eq(window[0]..window[0] + 10));
    }
    assert!(starts.iter().any(|&start| start < 300) && starts.iter().any(|&start| start >= 700));
    assert!(!drawn.is_sorted());
    assert_eq!(drawn, windows(&documents, 10, 205, None, 1));
    assert_ne!(drawn, windows(&documents, 10, 205, None, 2));
    // More of the same seed begins with the same.
    assert_eq!(windows(&documents, 10, 400, None, 1)[..21], drawn);

    let with_bos = windows(&documents, 10, usize::MAX, Some(9999), 1);
    assert_eq!(with_bos.len(), 1003 / 9);
    for window in &with_bos {
        assert_eq!((window.len(), window[0]), (10, 9999));
        assert!(window[1..].iter().copied().eq(window[1]..window[1] + 9));
    }
    assert!(windows(&documents, 2000, 2000, None, 1).is_empty());
    assert!(windows(&documents, 1, 5, Some(1), 1).is_empty());
    assert!(windows(&[], 0, 5, None, 1).is_empty());
}
