// Swagger UI on this server's own document; highlighting is off because it freezes on long answers.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#document",
  syntaxHighlight: false,
  validatorUrl: null,
  supportedSubmitMethods: ["get", "post"],
});
