//! Which files are executed later by somebody outside, or say what is: by their names alone. What stands in
//! them is the jail's to write, and any of it can be meant well.

use crate::audit::changes::ExecutedBy::{
    self, Agent, Build, Container, Editor, Git, Package, Pipeline, Python, Shell,
};

/// Whole names, wherever they are.
const NAMES: &[(&str, ExecutedBy)] = &[
    // shells, direnv, terminals, remote logins
    (".bash_aliases", Shell),
    (".bash_login", Shell),
    (".bash_logout", Shell),
    (".bash_profile", Shell),
    (".bashrc", Shell),
    (".envrc", Shell),
    (".inputrc", Shell),
    (".login", Shell),
    (".mise.toml", Shell),
    (".profile", Shell),
    (".tmux.conf", Shell),
    (".tool-versions", Shell),
    (".xprofile", Shell),
    (".xsession", Shell),
    (".zlogin", Shell),
    (".zlogout", Shell),
    (".zprofile", Shell),
    (".zshenv", Shell),
    (".zshrc", Shell),
    ("authorized_keys", Shell),
    ("config.fish", Shell),
    ("mise.toml", Shell),
    // git and what installs hooks for it
    (".gitattributes", Git),
    (".gitconfig", Git),
    (".gitmodules", Git),
    (".lefthook.yml", Git),
    (".pre-commit-config.yaml", Git),
    (".pre-commit-hooks.yaml", Git),
    ("lefthook.yml", Git),
    // editors
    (".dir-locals.el", Editor),
    (".editorconfig", Editor),
    (".emacs", Editor),
    (".exrc", Editor),
    (".lvimrc", Editor),
    (".nvimrc", Editor),
    (".vimrc", Editor),
    // agents
    (".claude.json", Agent),
    (".cursorrules", Agent),
    (".mcp.json", Agent),
    (".windsurfrules", Agent),
    ("AGENTS.md", Agent),
    ("AGENTS.override.md", Agent),
    ("CLAUDE.md", Agent),
    ("GEMINI.md", Agent),
    ("mcp.json", Agent),
    // Python
    ("conftest.py", Python),
    ("noxfile.py", Python),
    ("pyproject.toml", Python),
    ("pytest.ini", Python),
    ("setup.cfg", Python),
    ("setup.py", Python),
    ("sitecustomize.py", Python),
    ("tox.ini", Python),
    ("usercustomize.py", Python),
    // package managers
    (".bundle", Package),
    (".npmrc", Package),
    (".pnpmfile.cjs", Package),
    (".yarnrc", Package),
    (".yarnrc.yml", Package),
    ("Gemfile", Package),
    ("binding.gyp", Package),
    ("bunfig.toml", Package),
    ("composer.json", Package),
    ("deno.json", Package),
    ("deno.jsonc", Package),
    ("package.json", Package),
    ("pip.conf", Package),
    ("pnpm-workspace.yaml", Package),
    // builds
    ("BUILD", Build),
    ("BUILD.bazel", Build),
    ("BSDmakefile", Build),
    (".bazelrc", Build),
    ("CMakeLists.txt", Build),
    ("CMakePresets.json", Build),
    ("Cargo.toml", Build),
    ("GNUmakefile", Build),
    ("Justfile", Build),
    ("MODULE.bazel", Build),
    ("Makefile", Build),
    ("Rakefile", Build),
    ("SConstruct", Build),
    ("Taskfile.yaml", Build),
    ("Taskfile.yml", Build),
    ("WORKSPACE", Build),
    ("build.gradle", Build),
    ("build.gradle.kts", Build),
    ("build.ninja", Build),
    ("build.rs", Build),
    ("build.sbt", Build),
    ("configure", Build),
    ("configure.ac", Build),
    ("flake.nix", Build),
    ("gradlew", Build),
    ("justfile", Build),
    ("makefile", Build),
    ("meson.build", Build),
    ("mvnw", Build),
    ("pom.xml", Build),
    ("rust-toolchain", Build),
    ("rust-toolchain.toml", Build),
    ("settings.gradle", Build),
    ("settings.gradle.kts", Build),
    ("shell.nix", Build),
    // containers and machines
    ("Containerfile", Container),
    ("Dockerfile", Container),
    ("Vagrantfile", Container),
    ("compose.yaml", Container),
    ("compose.yml", Container),
    ("docker-compose.yaml", Container),
    ("docker-compose.yml", Container),
    // services
    (".gitlab-ci.yml", Pipeline),
    (".travis.yml", Pipeline),
    ("Jenkinsfile", Pipeline),
    ("azure-pipelines.yml", Pipeline),
    ("bitbucket-pipelines.yml", Pipeline),
];

/// Ends of names.
const ENDINGS: &[(&str, ExecutedBy)] = &[
    (".pth", Python),
    (".mk", Build),
    (".cmake", Build),
    (".gemspec", Package),
    (".code-workspace", Editor),
    (".desktop", Shell),
];

/// Folders in which every file counts, whatever its name.
const FOLDERS: &[(&str, ExecutedBy)] = &[
    (".husky", Git),
    (".githooks", Git),
    (".vscode", Editor),
    (".idea", Editor),
    (".zed", Editor),
    (".devcontainer", Editor),
    (".codex", Agent),
    (".claude", Agent),
    (".cursor", Agent),
    (".gemini", Agent),
    (".cargo", Build),
    (".mvn", Build),
    (".circleci", Pipeline),
    (".buildkite", Pipeline),
];

/// Folders below folders in which every file counts.
const PAIRS: &[(&str, &str, ExecutedBy)] = &[
    (".github", "workflows", Pipeline),
    (".github", "actions", Pipeline),
    (".yarn", "releases", Package),
    (".yarn", "plugins", Package),
    (".config", "autostart", Shell),
    (".config", "fish", Shell),
    ("systemd", "user", Shell),
];

/// By whom the file of this path is executed, below a folder that a session could write. `path` has the
/// folder's own parts; `executable`: somebody may execute it.
pub(super) fn executed_by(path: &[&str], executable: bool) -> Option<ExecutedBy> {
    let (name, folders) = path.split_last()?;
    let by_name = || {
        let whole = NAMES.iter().find(|(known, _)| known == name);
        let ending = || ENDINGS.iter().find(|(known, _)| name.ends_with(known));
        whole.or_else(ending).map(|(_, by)| *by)
    };
    let by_folder = || {
        folders.iter().find_map(|folder| {
            let known = FOLDERS.iter().find(|(known, _)| known == folder);
            known.map(|(_, by)| *by)
        })
    };
    let by_pair = || {
        folders.windows(2).find_map(|pair| {
            let known = PAIRS
                .iter()
                .find(|(above, below, _)| pair == [*above, *below]);
            known.map(|(_, _, by)| *by)
        })
    };
    let anybody = executable.then_some(ExecutedBy::Anybody);
    by_name().or_else(by_folder).or_else(by_pair).or(anybody)
}

/// The same within a repository's own folder (`.git`): most of it is data. `path` begins below it.
pub(super) fn executed_by_git(path: &[&str]) -> Option<ExecutedBy> {
    // git installs the samples itself and executes none of them.
    let git = match path {
        ["config" | "config.worktree"]
        | ["info", "attributes"]
        | ["modules" | "worktrees", .., "config" | "config.worktree"] => true,
        ["hooks", name] | ["modules", .., "hooks", name] => !name.ends_with(".sample"),
        _ => false,
    };
    git.then_some(Git)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_execute_later_is_known_by_its_place() {
        let by = |path: &str| {
            let parts: Vec<_> = path.split('/').collect();
            executed_by(&parts, false)
        };
        for (path, expected) in [
            ("Makefile", Some(Build)),
            ("deep/down/Makefile", Some(Build)),
            ("rules.mk", Some(Build)),
            ("package.json", Some(Package)),
            ("venv/lib/python3.11/site-packages/evil.pth", Some(Python)),
            (".envrc", Some(Shell)),
            (".vscode/tasks.json", Some(Editor)),
            (".github/workflows/ci.yml", Some(Pipeline)),
            (".github/CODEOWNERS", None),
            (".codex/config.toml", Some(Agent)),
            (".husky/pre-commit", Some(Git)),
            ("src/main.rs", None),
            ("notes.txt", None),
        ] {
            assert_eq!(by(path), expected, "{path}");
        }
        assert_eq!(executed_by(&["run"], true), Some(ExecutedBy::Anybody));
        assert_eq!(executed_by(&["Makefile"], true), Some(Build));
    }

    #[test]
    fn of_a_repository_hooks_and_configuration_count() {
        for (path, expected) in [
            (&["config"][..], Some(Git)),
            (&["hooks", "pre-commit"], Some(Git)),
            (&["hooks", "pre-commit.sample"], None),
            (&["modules", "lib", "hooks", "post-checkout"], Some(Git)),
            (&["modules", "lib", "config"], Some(Git)),
            (&["objects", "ab", "cdef"], None),
            (&["index"], None),
        ] {
            assert_eq!(executed_by_git(path), expected, "{path:?}");
        }
    }
}
