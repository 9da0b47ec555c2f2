//! Functions, branches, loops and scans: what they become, and what is refused, quickly.

use std::time::{Duration, Instant};

use super::*;

/// A hostile model of a few kilobytes is refused in less.
const QUICKLY: Duration = Duration::from_secs(5);

fn n(op: &str, inputs: &[&str], outputs: &[&str]) -> N {
    N::new(op, inputs, outputs)
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> N {
    N { domain: Some("own".to_owned()), ..N::new(name, inputs, outputs) }
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<N>) -> FunctionProto {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("own".to_owned()),
        input: texts(inputs),
        output: texts(outputs),
        node,
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..FunctionProto::default()
    }
}

fn named(names: &[&str]) -> Vec<ValueInfoProto> {
    names
        .iter()
        .map(|name| ValueInfoProto { name: Some((*name).to_owned()), ..Default::default() })
        .collect()
}

fn graph(inputs: &[&str], outputs: &[&str], node: Vec<N>) -> GraphProto {
    GraphProto { node, input: named(inputs), output: named(outputs), ..GraphProto::default() }
}

fn scalar(name: &str, value: i64) -> T {
    T::i64(name, &[], &[value])
}

fn truth(name: &str, value: bool) -> T {
    T::raw(name, t::BOOL, &[], vec![u8::from(value)])
}

/// `x` is f32 2×3, `c` a bool.
fn with(initializer: Vec<T>, node: Vec<N>, functions: Vec<FunctionProto>) -> ModelProto {
    let c = ValueInfoProto::tensor("c", t::BOOL, Vec::<i64>::new());
    let inputs = vec![input("x", &["2", "3"]), c];
    ModelProto { functions, ..model(17, inputs, initializer, node) }
}

struct Case {
    name: &'static str,
    model: ModelProto,
    /// Operators and shape of the result, or a part of the error.
    expected: Result<(&'static str, &'static str), &'static str>,
}

fn check(cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        let start = Instant::now();
        let result = import(&case.model, &ImportOptions::default());
        let (right, got) = match (&result, case.expected) {
            (Ok(graph), Ok(expected)) => {
                let (ops, shape) = (ops(graph), shape(graph));
                ((ops.as_str(), shape.as_str()) == expected, format!("{ops} {shape}"))
            }
            (Ok(graph), Err(_)) => (false, ops(graph)),
            (Err(error), Err(part)) => {
                let text = error.to_string();
                (text.contains(part), text)
            }
            (Err(error), Ok(_)) => (false, error.to_string()),
        };
        if !right {
            wrong.push(format!("{}: {got} instead of {:?}", case.name, case.expected));
        }
        assert!(start.elapsed() < QUICKLY, "{} took {:?}", case.name, start.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ok(name: &'static str, model: ModelProto, ops: &'static str, shape: &'static str) -> Case {
    Case { name, model, expected: Ok((ops, shape)) }
}

fn refused(name: &'static str, model: ModelProto, error: &'static str) -> Case {
    Case { name, model, expected: Err(error) }
}

fn twice() -> FunctionProto {
    function(
        "twice",
        &["a"],
        &["b"],
        vec![n("Relu", &["a"], &["r"]), n("Add", &["r", "a"], &["b"])],
    )
}

#[test]
fn functions() {
    let int = attribute_type::INT;
    let concat = |declared: &[&str], defaults: Vec<A>| FunctionProto {
        attribute: declared.iter().map(|name| (*name).to_owned()).collect(),
        attribute_proto: defaults,
        ..function(
            "join",
            &["a"],
            &["b"],
            vec![n("Concat", &["a", "a"], &["b"]).with(A::reference("axis", "where", int))],
        )
    };
    let join = |attribute: Option<i64>| {
        let node = call("join", &["x"], &["y"]);
        vec![match attribute {
            Some(axis) => node.with(A::int("where", axis)),
            None => node,
        }]
    };
    // An attribute of the caller's caller, inside a subgraph.
    let outer = FunctionProto {
        attribute: vec!["axis".to_owned()],
        ..function(
            "outer",
            &["a"],
            &["b"],
            vec![call("join", &["a"], &["b"]).with(A::reference("where", "axis", int))],
        )
    };
    let clip = || {
        let node = vec![n("Clip", &["a", "low", "high"], &["b"])];
        function("clip", &["a", "low", "high"], &["b"], node)
    };
    let overloaded = |overload: &str, op: &str| FunctionProto {
        overload: Some(overload.to_owned()),
        ..function("f", &["a"], &["b"], vec![n(op, &["a"], &["b"])])
    };
    check(vec![
        ok(
            "plain",
            with(vec![], vec![call("twice", &["x"], &["y"])], vec![twice()]),
            "Relu Add",
            "2×3",
        ),
        ok(
            "same names inside and outside",
            with(
                vec![],
                vec![
                    call("twice", &["x"], &["a"]),
                    call("twice", &["a"], &["r"]),
                    n("Neg", &["r"], &["y"]),
                ],
                vec![twice()],
            ),
            "Relu Add Relu Add Neg",
            "2×3",
        ),
        ok(
            "nested",
            with(
                vec![],
                vec![call("four", &["x"], &["y"])],
                vec![
                    function(
                        "four",
                        &["a"],
                        &["b"],
                        vec![call("twice", &["a"], &["m"]), call("twice", &["m"], &["b"])],
                    ),
                    twice(),
                ],
            ),
            "Relu Add Relu Add",
            "2×3",
        ),
        ok(
            "attribute",
            with(vec![], join(Some(1)), vec![concat(&["where"], vec![])]),
            "Concat",
            "2×6",
        ),
        ok(
            "default of an attribute",
            with(vec![], join(None), vec![concat(&[], vec![A::int("where", 0)])]),
            "Concat",
            "4×3",
        ),
        ok(
            "attribute instead of its default",
            with(vec![], join(Some(1)), vec![concat(&[], vec![A::int("where", 0)])]),
            "Concat",
            "2×6",
        ),
        ok(
            "attribute handed on",
            with(
                vec![],
                vec![call("outer", &["x"], &["y"]).with(A::int("axis", 1))],
                vec![outer, concat(&["where"], vec![])],
            ),
            "Concat",
            "2×6",
        ),
        ok(
            "inputs left out",
            with(
                vec![T::f32("zero", &[], &[0.0])],
                vec![call("clip", &["x", "zero"], &["y"])],
                vec![clip()],
            ),
            "Clip { min: 0.0, max: inf }",
            "2×3",
        ),
        ok(
            "an operator set of its own",
            with(
                vec![],
                vec![call("sum", &["x"], &["y"])],
                vec![FunctionProto {
                    opset_import: vec![OperatorSetIdProto { domain: None, version: Some(11) }],
                    // Axes are an attribute up to operator set 12.
                    ..function(
                        "sum",
                        &["a"],
                        &["b"],
                        vec![n("ReduceSum", &["a"], &["b"]).with(A::ints("axes", &[1]))],
                    )
                }],
            ),
            "ReduceSum",
            "2×1",
        ),
        ok(
            "overloads",
            with(
                vec![],
                vec![N { overload: Some("b".to_owned()), ..call("f", &["x"], &["y"]) }],
                vec![overloaded("a", "Neg"), overloaded("b", "Abs")],
            ),
            "Abs",
            "2×3",
        ),
        refused(
            "no such overload",
            with(vec![], vec![call("f", &["x"], &["y"])], vec![overloaded("a", "Neg")]),
            "operator domain own",
        ),
        refused(
            "an attribute that it hasn't",
            with(
                vec![],
                vec![call("twice", &["x"], &["y"]).with(A::int("axis", 1))],
                vec![twice()],
            ),
            "has no attribute `axis`",
        ),
        refused(
            "a required attribute left out",
            with(vec![], join(None), vec![concat(&["where"], vec![])]),
            "Concat",
        ),
        refused(
            "too many inputs",
            with(vec![], vec![call("twice", &["x", "x"], &["y"])], vec![twice()]),
            "2 inputs",
        ),
        refused(
            "outer names are out of sight",
            with(
                vec![],
                vec![n("Relu", &["x"], &["hidden"]), call("f", &["hidden"], &["y"])],
                vec![function("f", &["a"], &["b"], vec![n("Neg", &["hidden"], &["b"])])],
            ),
            "`hidden`, which nothing makes",
        ),
        refused(
            "an unsupported operator in a function is named with its place",
            with(
                vec![],
                vec![call("f", &["x"], &["y"]).named("block")],
                vec![function("f", &["a"], &["b"], vec![n("Nonsense", &["a"], &["b"])])],
            ),
            "Nonsense `block/Nonsense #0`",
        ),
        refused(
            "defined twice",
            with(vec![], vec![call("twice", &["x"], &["y"])], vec![twice(), twice()]),
            "defined twice",
        ),
        refused(
            "an operator set that isn't known",
            with(
                vec![],
                vec![call("twice", &["x"], &["y"])],
                vec![FunctionProto {
                    opset_import: vec![OperatorSetIdProto { domain: None, version: Some(999) }],
                    ..twice()
                }],
            ),
            "operator set 999",
        ),
        refused(
            "recursion",
            with(
                vec![],
                vec![call("f", &["x"], &["y"])],
                vec![
                    function("f", &["a"], &["b"], vec![call("g", &["a"], &["b"])]),
                    function("g", &["a"], &["b"], vec![call("f", &["a"], &["b"])]),
                ],
            ),
            "calls itself",
        ),
    ]);
}

/// Ten calls of ten calls of ten calls …: a few hundred nodes that ask for 10¹².
#[test]
fn functions_that_blow_up() {
    let level = |index: usize| {
        let next = format!("f{}", index + 1);
        let mut nodes = Vec::new();
        for i in 0..10 {
            let (from, to) = (format!("v{i}"), format!("v{}", i + 1));
            nodes.push(match index {
                11 => n("Identity", &[&from], &[&to]),
                _ => call(&next, &[&from], &[&to]),
            });
        }
        function(&format!("f{index}"), &["v0"], &["v10"], nodes)
    };
    let deep = |index: usize| {
        let (name, next) = (format!("f{index}"), format!("f{}", index + 1));
        let node = match index {
            99 => n("Relu", &["a"], &["b"]),
            _ => call(&next, &["a"], &["b"]),
        };
        function(&name, &["a"], &["b"], vec![node])
    };
    let start = || vec![call("f0", &["x"], &["y"])];
    check(vec![
        refused(
            "wide",
            with(vec![], start(), (0..12).map(level).collect()),
            "more than 131072 nodes",
        ),
        refused("deep", with(vec![], start(), (0..100).map(deep).collect()), "deep"),
    ]);
}

fn if_(condition: &str, then_branch: GraphProto, else_branch: GraphProto) -> N {
    n("If", &[condition], &["y"])
        .with(A::graph("then_branch", then_branch))
        .with(A::graph("else_branch", else_branch))
}

#[test]
fn branches() {
    let branch = |op: &str| graph(&[], &["r"], vec![n(op, &["x"], &["r"])]);
    let constants = |name: &str| {
        let mut branch = graph(&[], &["r"], vec![n("Add", &["x", name], &["r"])]);
        branch.initializer = vec![T::f32(name, &[3], &[1.0, 2.0, 3.0])];
        branch
    };
    let flat = || graph(&[], &["r"], vec![n("Flatten", &["x"], &["r"]).with(A::int("axis", 0))]);
    let plain = |initializer: Vec<T>, node: Vec<N>| with(initializer, node, vec![]);
    check(vec![
        ok(
            "true",
            plain(vec![truth("k", true)], vec![if_("k", branch("Neg"), branch("Abs"))]),
            "Neg",
            "2×3",
        ),
        ok(
            "false",
            plain(vec![truth("k", false)], vec![if_("k", branch("Neg"), branch("Abs"))]),
            "Abs",
            "2×3",
        ),
        ok(
            "decided by a shape; the branches differ in shape",
            plain(
                vec![scalar("one", 1), scalar("two", 2)],
                vec![
                    n("Shape", &["x"], &["s"]),
                    n("Gather", &["s", "one"], &["columns"]),
                    n("Equal", &["columns", "two"], &["k"]),
                    if_("k", branch("Neg"), flat()),
                ],
            ),
            "Reshape",
            "1×6",
        ),
        ok(
            "an unsupported operator in the branch not taken",
            plain(vec![truth("k", false)], vec![if_("k", branch("Nonsense"), branch("Abs"))]),
            "Abs",
            "2×3",
        ),
        ok(
            "an initializer of a branch, and a value made outside after it",
            plain(
                vec![truth("k", true)],
                vec![
                    if_(
                        "k",
                        {
                            let mut g = constants("w");
                            g.node.push(n("Mul", &["r", "late"], &["q"]));
                            g.output = named(&["q"]);
                            g
                        },
                        branch("Abs"),
                    ),
                    n("Exp", &["x"], &["late"]),
                ],
            ),
            "Exp Add Mul",
            "2×3",
        ),
        ok(
            "one in another",
            plain(
                vec![truth("k", true), truth("l", false)],
                vec![if_(
                    "k",
                    graph(
                        &[],
                        &["y"],
                        vec![
                            n("Relu", &["x"], &["m"]),
                            if_(
                                "l",
                                graph(&[], &["r"], vec![n("Neg", &["m"], &["r"])]),
                                graph(&[], &["r"], vec![n("Abs", &["m"], &["r"])]),
                            ),
                        ],
                    ),
                    branch("Neg"),
                )],
            ),
            "Relu Abs",
            "2×3",
        ),
        ok(
            "an outer value as it is",
            plain(
                vec![truth("k", true)],
                vec![if_("k", graph(&[], &["x"], vec![]), branch("Abs"))],
            ),
            "Reshape",
            "2×3",
        ),
        ok(
            "at run time: both, and a choice",
            plain(vec![], vec![if_("c", branch("Neg"), branch("Abs"))]),
            "Neg Abs Where",
            "2×3",
        ),
        ok(
            "at run time with constants of branches",
            plain(vec![], vec![if_("c", constants("w"), constants("w"))]),
            "Add Add Where",
            "2×3",
        ),
        ok(
            "at run time, the same",
            plain(
                vec![],
                vec![
                    n("Relu", &["x"], &["m"]),
                    if_("c", graph(&[], &["m"], vec![]), graph(&[], &["m"], vec![])),
                ],
            ),
            "Relu",
            "2×3",
        ),
        refused(
            "at run time with other shapes",
            plain(vec![], vec![if_("c", branch("Neg"), flat())]),
            "give the input that decides the condition",
        ),
        refused(
            "at run time with other types",
            plain(
                vec![],
                vec![if_(
                    "c",
                    branch("Neg"),
                    graph(
                        &[],
                        &["r"],
                        vec![n("Cast", &["x"], &["r"]).with(A::int("to", i64::from(t::INT32)))],
                    ),
                )],
            ),
            "i32",
        ),
        refused(
            "a name that is nowhere",
            plain(
                vec![truth("k", true)],
                vec![if_(
                    "k",
                    graph(&[], &["r"], vec![n("Neg", &["nowhere"], &["r"])]),
                    branch("Abs"),
                )],
            ),
            "`nowhere`, which nothing makes",
        ),
        refused(
            "an output that nothing makes",
            plain(
                vec![truth("k", true)],
                vec![if_("k", graph(&[], &["r"], vec![]), branch("Abs"))],
            ),
            "output `r` of a body",
        ),
        refused(
            "no branch",
            plain(
                vec![truth("k", true)],
                vec![n("If", &["k"], &["y"]).with(A::graph("then_branch", branch("Neg")))],
            ),
            "else_branch",
        ),
        refused(
            "a number as condition",
            plain(vec![scalar("k", 1)], vec![if_("k", branch("Neg"), branch("Abs"))]),
            "not bool",
        ),
        refused(
            "no condition",
            plain(vec![], vec![if_("", branch("Neg"), branch("Abs"))]),
            "condition is missing",
        ),
        refused(
            "no outputs",
            plain(vec![truth("k", true)], vec![if_("k", graph(&[], &[], vec![]), branch("Abs"))]),
            "0 outputs",
        ),
        refused(
            "itself",
            plain(
                vec![truth("k", true)],
                vec![if_("k", graph(&[], &["r"], vec![n("Neg", &["y"], &["r"])]), branch("Abs"))],
            ),
            "depends on its own output",
        ),
    ]);
}

fn loop_(trips: &str, condition: &str, body: GraphProto) -> N {
    n("Loop", &[trips, condition, "x"], &["last", "y"]).with(A::graph("body", body))
}

/// One state that is negated, and a scan output of it.
fn negating() -> GraphProto {
    let nodes = vec![n("Neg", &["s"], &["t"]), n("Abs", &["s"], &["u"])];
    graph(&["i", "go", "s"], &["go", "t", "u"], nodes)
}

#[test]
fn loops() {
    let plain = |initializer: Vec<T>, node: Vec<N>| with(initializer, node, vec![]);
    // Goes on while the turn is below two.
    let counting = || {
        let nodes = vec![
            n("Less", &["i", "two"], &["more"]),
            n("Neg", &["s"], &["t"]),
            n("Abs", &["s"], &["u"]),
        ];
        graph(&["i", "go", "s"], &["more", "t", "u"], nodes)
    };
    // Goes on as the data say.
    let by_data = || graph(&["i", "go", "s"], &["c", "s", "s"], vec![]);
    // Its state grows with every turn.
    let growing = || {
        let node = n("Concat", &["s", "x"], &["t"]).with(A::int("axis", 0));
        graph(&["i", "go", "s"], &["go", "t"], vec![node])
    };
    let last = |mut node: N| {
        node.output = vec!["y".to_owned()];
        node
    };
    let forever = |body: GraphProto| plain(vec![scalar("m", i64::MAX)], vec![loop_("m", "", body)]);
    let mut empty = negating();
    empty.output[2] = ValueInfoProto::tensor("u", t::FLOAT, [2i64, 3]);
    check(vec![
        ok(
            "three turns",
            plain(vec![scalar("m", 3)], vec![loop_("m", "", negating())]),
            "Neg Abs Neg Abs Abs Reshape Reshape Reshape Concat",
            "3×2×3",
        ),
        ok(
            "one turn",
            plain(vec![scalar("m", 1)], vec![loop_("m", "", negating())]),
            "Abs Reshape",
            "1×2×3",
        ),
        ok(
            "until its condition fails",
            plain(vec![scalar("two", 2)], vec![loop_("", "", counting())]),
            "Neg Abs Neg Abs Abs Reshape Reshape Reshape Concat",
            "3×2×3",
        ),
        ok(
            "a state that grows",
            plain(vec![scalar("m", 2)], vec![last(loop_("m", "", growing()))]),
            "Concat Concat",
            "6×3",
        ),
        ok(
            "never",
            plain(vec![scalar("m", 0)], vec![loop_("m", "", empty.clone())]),
            "Reshape",
            "0×2×3",
        ),
        ok(
            "not from the start",
            plain(vec![truth("k", false)], vec![loop_("", "k", empty)]),
            "Reshape",
            "0×2×3",
        ),
        refused(
            "never, without a shape",
            plain(vec![scalar("m", 0)], vec![loop_("m", "", negating())]),
            "never runs",
        ),
        refused(
            "as the data say",
            plain(vec![scalar("m", 3)], vec![loop_("m", "", by_data())]),
            "whether it goes on is computed from data",
        ),
        refused(
            "a count from data",
            plain(
                vec![],
                vec![
                    n("Cast", &["c"], &["m"]).with(A::int("to", i64::from(t::INT64))),
                    loop_("m", "", negating()),
                ],
            ),
            "the trip count is computed from data",
        ),
        refused(
            "other shapes to join",
            plain(
                vec![scalar("m", 2)],
                vec![loop_("m", "", {
                    let mut g = growing();
                    g.output.push(named(&["t"]).remove(0));
                    g
                })],
            ),
            "in step 1",
        ),
        refused(
            "a body of other inputs",
            plain(
                vec![scalar("m", 1)],
                vec![loop_("m", "", graph(&["i"], &["i", "x", "x"], vec![]))],
            ),
            "1 inputs and 3 outputs",
        ),
        refused(
            "a body without outputs",
            plain(
                vec![scalar("m", 1)],
                vec![loop_("m", "", graph(&["i", "go", "s"], &[], vec![]))],
            ),
            "0 outputs",
        ),
        refused("for ever", forever(negating()), "more than 131072 nodes"),
        refused(
            "for ever, doing nothing",
            forever(graph(&["i", "go", "s"], &["go", "s", "s"], vec![])),
            "more than 131072 nodes",
        ),
        refused(
            "without an end",
            plain(vec![], vec![loop_("", "", negating())]),
            "more than 131072 nodes",
        ),
        refused(
            "loops in loops",
            plain(
                vec![scalar("m", 5000)],
                vec![loop_(
                    "m",
                    "",
                    graph(
                        &["i", "go", "s"],
                        &["go", "s", "w"],
                        vec![
                            n("Loop", &["m", "", "s"], &["w", "z"])
                                .with(A::graph("body", negating())),
                        ],
                    ),
                )],
            ),
            "more than 131072 nodes",
        ),
    ]);
    let big = 1i64 << 18;
    let mut values = negating();
    values.initializer = vec![T {
        name: Some("w".to_owned()),
        data_type: Some(t::FLOAT),
        dims: vec![big],
        float_data: vec![0.5; big as usize],
        ..T::default()
    }];
    values.node.push(n("ReduceSum", &["w"], &["z"]).with(A::int("keepdims", 0)));
    values.node.push(n("Add", &["t", "z"], &["v"]));
    values.output[1] = named(&["v"]).remove(0);
    let model = plain(vec![scalar("m", 2000)], vec![last(loop_("m", "", values))]);
    // A constant of the body is read once, not once a turn.
    let start = Instant::now();
    import(&model, &ImportOptions::default()).unwrap();
    assert!(start.elapsed() < QUICKLY, "{:?}", start.elapsed());
}

#[test]
fn scans() {
    let body = || {
        graph(
            &["s", "e"],
            &["t", "u"],
            vec![n("Add", &["s", "e"], &["t"]), n("Neg", &["t"], &["u"])],
        )
    };
    let scan = |attributes: Vec<A>| {
        let node = n("Scan", &["s0", "x"], &["last", "y"])
            .with(A::graph("body", body()))
            .with(A::int("num_scan_inputs", 1));
        let node = attributes.into_iter().fold(node, N::with);
        with(vec![T::f32("s0", &[1], &[0.0])], vec![node], vec![])
    };
    let old = |lengths: &str, own: &str| {
        let s0 = T::f32("s0", &[2, 1], &[0.0, 1.0]);
        let node = n("Scan", &[lengths, "s0", "x"], &["last", "y"])
            .with(A::graph("body", body()))
            .with(A::int("num_scan_inputs", 1));
        let _ = own;
        model(8, vec![input("x", &["2", "3"])], vec![s0, T::i64("l", &[2], &[1, 3])], vec![node])
    };
    check(vec![
        ok(
            "rows",
            scan(vec![]),
            "Slice Reshape Add Neg Slice Reshape Add Neg Reshape Reshape Concat",
            "2×3",
        ),
        ok(
            "columns, stacked as columns",
            scan(vec![A::ints("scan_input_axes", &[1]), A::ints("scan_output_axes", &[-1])]),
            "Slice Reshape Add Neg Slice Reshape Add Neg Slice Reshape Add Neg Reshape Reshape Reshape Concat",
            "2×3",
        ),
        ok(
            "backwards",
            scan(vec![
                A::ints("scan_input_directions", &[1]),
                A::ints("scan_output_directions", &[1]),
            ]),
            "Slice Reshape Add Neg Slice Reshape Add Neg Reshape Reshape Concat",
            "2×3",
        ),
        refused("a direction", scan(vec![A::ints("scan_input_directions", &[2])]), "holds 2"),
        refused("too many axes", scan(vec![A::ints("scan_input_axes", &[0, 0])]), "2 entries"),
        refused("no such axis", scan(vec![A::ints("scan_input_axes", &[2])]), "axis 2"),
        refused("with lengths", old("l", ""), "different lengths"),
    ]);
    let batched = import(&old("", ""), &ImportOptions::default()).unwrap();
    assert_eq!(shape(&batched), "2×3×1");
}

/// Subgraphs as deep as a file can hold them, and functions as deep as that allows.
#[test]
fn depth() {
    let nested = |levels: usize| {
        let mut inner = graph(&[], &["r"], vec![n("Neg", &["x"], &["r"])]);
        for _ in 0..levels {
            let other = graph(&[], &["r"], vec![n("Abs", &["x"], &["r"])]);
            let mut node = if_("k", inner, other);
            node.output = vec!["r".to_owned()];
            inner = graph(&[], &["r"], vec![node]);
        }
        let mut node = if_("k", inner, graph(&[], &["r"], vec![]));
        node.output = vec!["y".to_owned()];
        with(vec![truth("k", true)], vec![node], vec![])
    };
    check(vec![
        ok("twenty", nested(20), "Neg", "2×3"),
        refused("too deep to decode", nested(200), "recursion limit"),
    ]);
}
