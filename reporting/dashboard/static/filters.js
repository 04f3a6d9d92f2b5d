// The form above the figures: shows a state, and tells when its reader chose another one.
import { isZone, periodOf } from "./state.js";
import { make } from "./words.js";

const at = (id) => document.getElementById(id);

export class Filters {
  #zone = "UTC"; // of the figures, when none is chosen
  #state;

  // `onChoice` gets the changed parts of the state.
  constructor(onChoice) {
    const form = at("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => {
      const choice = this.#choice(target);
      if (choice) onChoice(choice);
    });
    at("zones").replaceChildren(...["UTC", ...Intl.supportedValuesOf("timeZone")].map((name) => make("option", { value: name })));
  }

  show(state, tenantZone) {
    this.#state = state;
    this.#zone = state.zone && isZone(state.zone) ? state.zone : tenantZone;
    at("range").value = state.range;
    at("zone").value = this.#zone;
    for (const label of document.querySelectorAll(".custom")) label.hidden = state.range !== "custom";
    const { from, to } = periodOf(state, this.#zone);
    at("from").value = from;
    at("to").value = to;
    this.#note(state.zone && !isZone(state.zone) ? `“${state.zone}” is no time zone; these figures are in ${this.#zone}.` : "");
    this.#select(state.promotion);
  }

  // Offer the registered promotions, others that have clicks in the period, and the chosen one in any case.
  offer(promotions) {
    const options = promotions.map(({ promotion_id: id, promotion: name }) => make("option", { value: id }, name));
    at("promotion").replaceChildren(make("option", { value: "" }, "All promotions"), ...options);
    this.#select(this.#state.promotion);
  }

  // The name of a promotion, as far as it is known.
  nameOf(promotion) {
    const option = [...at("promotion").options].find(({ value }) => value === promotion);
    return option ? option.textContent : promotion;
  }

  #select(promotion) {
    const picker = at("promotion");
    if (promotion && ![...picker.options].some(({ value }) => value === promotion)) {
      picker.append(make("option", { value: promotion }, promotion));
    }
    picker.value = promotion;
  }

  #choice({ id, value }) {
    switch (id) {
      case "range": {
        if (value !== "custom") return { range: value };
        return { range: value, ...periodOf(this.#state, this.#zone) };
      }
      case "from":
      case "to": {
        const from = at("from").value;
        const to = at("to").value;
        const isPeriod = from && to && from <= to;
        this.#note(isPeriod ? "" : "The first day must not be after the last one.");
        return isPeriod ? { from, to } : null;
      }
      case "zone":
        this.#note(isZone(value) ? "" : `“${value}” is no time zone. Write it like Europe/Berlin.`);
        return isZone(value) ? { zone: value } : null;
      case "promotion":
        return { promotion: value };
      default:
        return null;
    }
  }

  #note(text) {
    at("zone-note").textContent = text;
    at("zone-note").hidden = !text;
  }
}
