use super::*;

fn render(template: &str, messages: &[Message]) -> Result<String, TextError> {
    ChatTemplate::new(template, "<s>", "</s>")?.render(messages, true)
}

#[test]
fn templates_as_models_have_them() {
    let messages = [Message::new("user", " Hello <&> \"you\" "), Message::new("assistant", "ä\n")];
    let cases = [
        (
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            "<|im_start|>user\n Hello <&> \"you\" <|im_end|>\n<|im_start|>assistant\nä\n<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "{{ bos_token }}{% for m in messages %}\n    {{- m.content.strip() | trim }}{{ eos_token }}\n{% endfor %}\n",
            "<s>Hello <&> \"you\"</s>\nä</s>\n",
        ),
        ("{{ messages | map(attribute='role') | list | tojson }}", r#"["user", "assistant"]"#),
        ("{{ {'a': [1, 2.5], 'b': none} | tojson }}", r#"{"a": [1, 2.5], "b": null}"#),
        ("{{ {'a': '<ä>'} | tojson(indent=2) }}", "{\n  \"a\": \"<ä>\"\n}"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        ("{%- generation -%} a {%- endgeneration %}{% generation %}\nb{% endgeneration %}", "ab"),
        (
            "{{ messages[0].get('tools', 'none') }} {{ messages[-1]['content'] is defined }}",
            "none True",
        ),
        ("{{ messages[0]['role'].startswith('us') and 'ser' in messages[0].role }}", "True"),
        ("{% if tools is not none or documents is not none %}t{% else %}-{% endif %}", "-"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ messages[:1] | length }}", "[1]1"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template, &messages).expect(template), expected, "{template}");
    }
    let date = render("{{ strftime_now('%Y') }}", &[]).expect("a year");
    assert!(date.parse::<u32>().expect("a number") >= 2024);
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("a\n{% if %}", 2, "unexpected"),
        ("\n\n{{ raise_exception('roles must alternate') }}", 3, "roles must alternate"),
        ("{{ 1 | nothing }}", 1, "nothing"),
        ("x\n{{ messages[0].role.upper(1, 2, 3) }}", 2, "too many"),
        ("\n{{ strftime_now('%Q') }}", 2, "%Q"),
        ("{{ absent.deeper }}", 1, "undefined"),
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}",
            1,
            "fuel",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 1, "recursion"),
        ("{% generation", 1, ""),
    ];
    for (template, expected_line, expected) in cases {
        let error = render(template, &[Message::new("user", "a")]).expect_err(template);
        let TextError::Template { line, problem } = error else { panic!("{template}: {error}") };
        assert!(
            line == expected_line && problem.contains(expected),
            "{template}: {line}, {problem}"
        );
    }
}
