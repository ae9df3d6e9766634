//! The scripted model: a request in, the events of its answer out.
//!
//! It keeps no state. The number of tool outputs in a request says which step is next, and where a
//! WebSocket request carries only what is new, the id of the response it continues says how many came
//! before. So a retry gets the same answer.

use serde_json::{Value, json};

use crate::script::{Script, Step};

/// One answer of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// How many tool outputs the model had seen.
    pub(crate) outputs_seen: usize,
    /// What it says; none for a warm-up.
    item: Option<Value>,
}

impl Answer {
    /// What the script has for this request.
    pub(crate) fn to(request: &Value, script: &Script) -> Self {
        let outputs_seen = outputs_before(request) + new_outputs(request).len();
        let warm_up = request.get("generate") == Some(&Value::Bool(false));
        let item = (!warm_up).then(|| item(&script.step(outputs_seen), outputs_seen, request));
        Self { outputs_seen, item }
    }

    /// The events of the answer, as both transports carry them.
    pub(crate) fn events(self) -> Vec<Value> {
        let id = format!("{RESPONSE_ID}{}", self.outputs_seen);
        let mut events = vec![json!({"type": "response.created", "response": {"id": id}})];
        events.extend(
            self.item
                .map(|item| json!({"type": "response.output_item.done", "item": item})),
        );
        events.push(
            json!({"type": "response.completed", "response": {"id": id, "usage": {
                "input_tokens": 1, "input_tokens_details": null,
                "output_tokens": 1, "output_tokens_details": null,
                "total_tokens": 2,
            }}}),
        );
        events
    }
}

/// The tool outputs that a request brings, as text.
pub(crate) fn new_outputs(request: &Value) -> Vec<String> {
    let items = request.get("input").and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter(|item| {
            matches!(
                kind(item),
                "function_call_output" | "custom_tool_call_output"
            )
        })
        .map(|item| match item.get("output") {
            Some(Value::String(text)) => text.clone(),
            other => other.map(ToString::to_string).unwrap_or_default(),
        })
        .collect()
}

/// How many tool outputs the continued response had seen.
fn outputs_before(request: &Value) -> usize {
    request
        .get("previous_response_id")
        .and_then(Value::as_str)
        .and_then(|id| id.strip_prefix(RESPONSE_ID))
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

fn item(step: &Step, number: usize, request: &Value) -> Value {
    match step {
        Step::Run(command) => call(number, ShellTool::offered(request), command),
        Step::Patch(patch) if offers(request, "custom", "apply_patch") => json!({
            "type": "custom_tool_call", "call_id": format!("call-{number}"),
            "name": "apply_patch", "input": patch,
        }),
        Step::Patch(patch) => {
            let command = format!("apply_patch <<'PATCH'\n{patch}PATCH\n");
            call(number, ShellTool::offered(request), &command)
        }
        Step::Say(text) => json!({
            "type": "message", "role": "assistant", "id": format!("msg-{number}"),
            "content": [{"type": "output_text", "text": text}],
        }),
    }
}

fn call(number: usize, shell: ShellTool, command: &str) -> Value {
    let (name, arguments) = match shell {
        ShellTool::Script => {
            let arguments = json!({"cmd": command, "yield_time_ms": 30_000});
            return json!({
                "type": "custom_tool_call", "call_id": format!("call-{number}"), "name": "exec",
                "input": format!("text(JSON.stringify(await tools.exec_command({arguments})))"),
            });
        }
        ShellTool::ExecCommand => (
            "exec_command",
            json!({"cmd": command, "yield_time_ms": 30_000}),
        ),
        ShellTool::CommandLine => ("shell_command", json!({"command": command})),
        ShellTool::Arguments => ("shell", json!({"command": ["bash", "-lc", command]})),
    };
    json!({
        "type": "function_call", "call_id": format!("call-{number}"),
        "name": name, "arguments": arguments.to_string(),
    })
}

/// The shell tool of a Codex version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShellTool {
    /// The models that 0.169 knows by itself: a program that calls the tools.
    Script,
    ExecCommand,
    CommandLine,
    Arguments,
}

impl ShellTool {
    fn offered(request: &Value) -> Self {
        // A request that goes on from an earlier one does not offer them again.
        if tools(request).is_empty() || offers(request, "custom", "exec") {
            Self::Script
        } else if offers(request, "function", "exec_command") {
            Self::ExecCommand
        } else if offers(request, "function", "shell_command") {
            Self::CommandLine
        } else {
            Self::Arguments
        }
    }
}

fn offers(request: &Value, tool_kind: &str, name: &str) -> bool {
    tools(request).into_iter().any(|tool| {
        kind(tool) == tool_kind && tool.get("name").and_then(Value::as_str) == Some(name)
    })
}

/// Every tool that a request offers: by itself, or in an item of its input, in a namespace.
fn tools(request: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    tools_below(request, &mut found);
    let items = request.get("input").and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        tools_below(item, &mut found);
    }
    found
}

fn tools_below<'a>(holder: &'a Value, found: &mut Vec<&'a Value>) {
    let tools = holder.get("tools").and_then(Value::as_array);
    for tool in tools.into_iter().flatten() {
        found.push(tool);
        tools_below(tool, found);
    }
}

fn kind(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A response's id is this and the number of tool outputs it had seen.
const RESPONSE_ID: &str = "resp-";
