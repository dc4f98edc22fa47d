//! `hooks` of config.json (config.md, "POSIX-platform Hooks").

use super::json::object;

object! {
    /// The six lists of hooks. Each list is run in order.
    Hooks {
        "prestart" => prestart: Vec<Hook>,
        "createRuntime" => create_runtime: Vec<Hook>,
        "createContainer" => create_container: Vec<Hook>,
        "startContainer" => start_container: Vec<Hook>,
        "poststart" => poststart: Vec<Hook>,
        "poststop" => poststop: Vec<Hook>,
    }

    /// One program to run.
    Hook {
        "path" => path: String,
        "args" => args: Vec<String>,
        "env" => env: Option<Vec<String>>,
        "timeout" => timeout: Option<i64>,
    }
}
