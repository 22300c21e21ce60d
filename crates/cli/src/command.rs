//! The command line, written down beside what it made.

/// A command that does the same again: `arguments` without the options `left_out`, each of which takes
/// a value, in words that a shell reads.
pub fn again(mut arguments: impl Iterator<Item = String>, left_out: &[&str]) -> String {
    let mut words = vec!["ssamba-edge".to_owned()];
    while let Some(word) = arguments.next() {
        if left_out.contains(&word.as_str()) {
            arguments.next();
        } else if !left_out.iter().any(|option| holds(&word, option)) {
            words.push(quoted(word));
        }
    }
    words.join(" ")
}

/// Whether a word is an option together with its value: `--output=a`, `-oa`.
fn holds(word: &str, option: &str) -> bool {
    word.strip_prefix(option)
        .is_some_and(|value| value.starts_with('=') || !option.starts_with("--"))
}

fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./,:=+@%-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::again;

    #[test]
    fn a_command_is_written_down_without_what_is_left_out() {
        let words = "bench efficiency --runs 3 -o a/b -oc --ort-lib=c.so --output d --tokens 8";
        let again = again(words.split(' ').map(Into::into), &["-o", "--output", "--ort-lib"]);
        assert_eq!(again, "ssamba-edge bench efficiency --runs 3 --tokens 8");
    }

    #[test]
    fn words_that_a_shell_would_read_otherwise_are_quoted() {
        let words = ["train", "my clips.csv", "--name", "it's", "--stride", "128x4", ""];
        assert_eq!(
            again(words.into_iter().map(Into::into), &[]),
            r"ssamba-edge train 'my clips.csv' --name 'it'\''s' --stride 128x4 ''"
        );
    }
}
