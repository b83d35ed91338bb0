// What a browser sees that is not signed in: why, and what to do.

import * as data from "../data.js";
import { fill, h } from "../dom.js";

export function signInScreen(main, error, start) {
  const fault = h("p", { class: "fault", role: "alert" }, error.message);
  const field = h("input", { type: "password", autocomplete: "off", required: true, "aria-label": "Token or link", placeholder: "Token or link" });
  const send = async (event) => {
    event.preventDefault();
    try {
      // A whole link may be pasted, too.
      await data.signIn(field.value.split("#token=").at(-1).trim());
      await start();
    } catch (refusal) {
      fill(fault, refusal.message);
    }
  };
  fill(
    main,
    h(
      "section",
      { class: "sign-in" },
      h("h1", {}, "agentbus"),
      fault,
      h("form", { onsubmit: send }, field, h("div", { class: "actions" }, h("button", { class: "first" }, "Sign in"))),
    ),
  );
}
