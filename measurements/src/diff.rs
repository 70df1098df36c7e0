//! Two manifests, value by value.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::Value;

/// A value that is not the same on both sides.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Difference {
    /// Path to it, `shapes.small.tdx.rtmr0`.
    pub name: String,
    /// On the first side, if it is there.
    pub first: Option<String>,
    /// On the second side, if it is there.
    pub second: Option<String>,
}

/// All values that differ, in the order of their names.
pub fn diff<T: Serialize>(first: &T, second: &T) -> Result<Vec<Difference>, serde_json::Error> {
    let (first, second) = (values(first)?, values(second)?);
    let mut differences: Vec<Difference> = first
        .iter()
        .filter(|(name, value)| second.get(*name) != Some(*value))
        .map(|(name, value)| Difference {
            name: name.clone(),
            first: Some(value.clone()),
            second: second.get(name).cloned(),
        })
        .collect();
    let added = second
        .into_iter()
        .filter(|(name, _)| !first.contains_key(name));
    differences.extend(added.map(|(name, value)| Difference {
        name,
        first: None,
        second: Some(value),
    }));
    differences.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(differences)
}

/// Every leaf with its path, each on one line.
pub fn values<T: Serialize>(of: &T) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let mut values = BTreeMap::new();
    collect(&mut values, String::new(), &serde_json::to_value(of)?);
    Ok(values)
}

fn collect(values: &mut BTreeMap<String, String>, path: String, value: &Value) {
    let join = |name: &str| match path.as_str() {
        "" => name.to_string(),
        path => format!("{path}.{name}"),
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(values, join(name), value);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str);
                let name = name.map_or_else(|| index.to_string(), ToString::to_string);
                collect(values, join(&name), item);
            }
        }
        Value::String(text) if !text.contains(char::is_control) => {
            values.insert(path, text.clone());
        }
        // Quoted, so that it stays on one line.
        other => {
            values.insert(path, other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_name_list_items_by_their_names() {
        let value = json!({"shapes": [{"name": "small", "gpus": 0}], "packages": ["libc6 2"]});
        let values = values(&value).unwrap();
        let lines: Vec<String> = values.iter().map(|(k, v)| format!("{k} {v}")).collect();
        assert_eq!(
            lines,
            [
                "packages.0 libc6 2",
                "shapes.small.gpus 0",
                "shapes.small.name small",
            ]
        );
    }

    #[test]
    fn a_text_of_several_lines_stays_on_one() {
        let values = values(&json!({"text": "a\nb"})).unwrap();
        assert_eq!(values["text"], "\"a\\nb\"");
    }

    #[test]
    fn changed_added_and_removed_values_are_listed() {
        let first = json!({"a": "1", "b": "2", "same": "3"});
        let second = json!({"a": "9", "c": "4", "same": "3"});
        let found: Vec<_> = diff(&first, &second)
            .unwrap()
            .into_iter()
            .map(|d| (d.name, d.first, d.second))
            .collect();
        let text = |text: &str| Some(text.to_string());
        assert_eq!(
            found,
            [
                ("a".to_string(), text("1"), text("9")),
                ("b".to_string(), text("2"), None),
                ("c".to_string(), None, text("4")),
            ]
        );
    }
}
