//! A command as one would type it.

/// One option a line, quoted where a shell would take it for something else.
#[must_use]
pub fn line(program: &str, arguments: &[String]) -> String {
    let mut text = quoted(program);
    for argument in arguments {
        let is_option = argument.starts_with('-');
        text += if is_option { " \\\n    " } else { " " };
        text += &quoted(argument);
    }
    text + "\n"
}

fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=,:+@%".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        let arguments = ["-a", "b c", "-d", "it's", "-e", "", "-f=1,2"].map(String::from);
        assert_eq!(
            line("/usr/bin/qemu", &arguments),
            "/usr/bin/qemu \\\n    -a 'b c' \\\n    -d 'it'\\''s' \\\n    -e '' \\\n    -f=1,2\n"
        );
    }
}
